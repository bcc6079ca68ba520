"""The generator's Triton kernels on a GPU: each gated against torch, then timed against it.

    python -m bench.gpu [--repeats 20] [--only attention linear]

Needs torch, triton and a CUDA device, nothing else. Ceilings first: a large copy, a large product.
Then each kernel over several sets of inputs that together exceed the L2 cache: microseconds, GB/s
or TFLOP/s, the share of its ceiling, and torch's time for the same. A kernel whose result is not
torch's is told and not timed. Writes bench/results/gpu.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton

from bench.gpu_cases import BF16, Call, Case, cases
from bench.machine import describe

RESULT = Path(__file__).parent / "results" / "gpu.json"
L2_BYTES = 128 * 2**20  # beyond any today


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser("bench.gpu", description=__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--only", nargs="+", default=[], help="parts of names")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("bench.gpu needs a CUDA device")
    torch.manual_seed(0)
    torch.set_default_device("cuda")
    copy_s = copied_bytes_per_s(options.repeats)
    product_s = multiplied_flops_per_s(options.repeats)
    device = torch.cuda.get_device_name()
    print(f"{device}: copies {copy_s / 1e12:.2f} TB/s, multiplies {product_s / 1e12:.0f} TFLOP/s")
    rows = []
    for case in cases():
        if options.only and not any(part in case.name for part in options.only):
            continue
        row = measured(case, options.repeats, copy_s, product_s)
        rows.append(row)
        print(line(row), flush=True)
    result = {
        **describe(),
        "device": device,
        "triton": triton.__version__,
        "options": vars(options),
        "copy_bytes_per_s": copy_s,
        "product_flops_per_s": product_s,
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {RESULT.name}")


def measured(case: Case, repeats: int, copy_s: float, product_s: float) -> dict[str, Any]:
    """Gate one case, then time it."""
    count = max(2, min(16, int(L2_BYTES / max(case.num_bytes, 1)) + 1))
    sets = [case.make() for _ in range(count)]
    ours, other = sets[0]
    row: dict[str, Any] = {"kernel": case.name}
    if other is not None:
        error = relative_error(ours(), other())
        row["error"] = error
        if not error <= case.tolerance:
            return {**row, "failed": f"differs from torch by {error:.3g}"}
    ours_s = timed([mine for mine, _ in sets], repeats)
    bandwidth = case.num_bytes / ours_s / copy_s
    arithmetic = case.num_flops / ours_s / product_s
    row |= {
        "us": ours_s * 1e6,
        "bytes_per_s": case.num_bytes / ours_s,
        "flops_per_s": case.num_flops / ours_s,
        "share": max(bandwidth, arithmetic),
        "of": "bandwidth" if bandwidth >= arithmetic else "arithmetic",
    }
    others = [theirs for _, theirs in sets if theirs is not None]
    if others:
        row["torch_us"] = timed(others, repeats) * 1e6
    return row


def line(row: dict[str, Any]) -> str:
    """Return one case in words."""
    if "failed" in row:
        return f"{row['kernel']:<44} FAILED: {row['failed']}"
    torchs = f"torch {row['torch_us']:9.1f} us" if "torch_us" in row else ""
    return (
        f"{row['kernel']:<44} {row['us']:9.1f} us {row['bytes_per_s'] / 1e9:8.0f} GB/s "
        f"{row['flops_per_s'] / 1e12:7.1f} TFLOP/s {row['share']:5.0%} of {row['of']:<10} {torchs}"
    )


def timed(calls: list[Call], repeats: int) -> float:
    """Return the median seconds of a call, over rounds in which each set has its turn."""
    for call in calls:
        call()
    torch.cuda.synchronize()
    taken: list[float] = []
    event = partial(torch.cuda.Event, enable_timing=True)
    for _ in range(repeats):
        begin, end = event(), event()
        begin.record()
        for call in calls:
            call()
        end.record()
        end.synchronize()
        taken.append(begin.elapsed_time(end) / 1e3 / len(calls))
    return statistics.median(taken)


def relative_error(ours: Any, other: Any) -> float:
    """Return the root mean square of the difference, relative to torch's result."""
    wide, expected = ours.double(), other.double()
    return float((wide - expected).norm() / expected.norm().clamp(min=1e-30))


def copied_bytes_per_s(repeats: int) -> float:
    """Return what a large copy reads and writes in a second."""
    source = torch.empty(2**30, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * source.numel() / timed([lambda: target.copy_(source)], repeats)


def multiplied_flops_per_s(repeats: int) -> float:
    """Return the operations of a large bfloat16 product in a second."""
    a, b = (torch.randn(8192, 8192, dtype=BF16) for _ in range(2))
    return 2 * 8192**3 / timed([lambda: a @ b], repeats)


if __name__ == "__main__":
    main()
