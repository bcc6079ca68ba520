"""One case measured: its result held against torch's, then both timed."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from bench.gpu.cases.case import Calls, Case
from bench.gpu.timing import timed

MAX_SETS = 256


@dataclass(frozen=True)
class Ceilings:
    """What the device does in a second, measured in the same run."""

    copy_bytes_per_s: float
    product_flops_per_s: float


def measured(case: Case, device: str, repeats: int, ceilings: Ceilings) -> dict[str, Any]:
    """Return the case's row; one whose result is not torch's says `failed` and has no times.

    Sets of inputs take turns that together are twice what the L2 cache holds, if 256 are.
    """
    count = num_sets(case.num_bytes, l2_bytes())
    with torch.device(device):
        sets = [case.make() for _ in range(count)]
    row: dict[str, Any] = {"sets": count}
    # ours may write to the inputs
    ours, other = sets[0]
    expected = other()
    row["error"] = error = case.error(ours(), expected)
    del expected
    if not error <= case.tolerance:
        return {**row, "failed": f"differs from torch by {error:.3g}"}
    timing = timed([mine for mine, _ in sets], repeats)
    bandwidth = case.num_bytes / timing.seconds / ceilings.copy_bytes_per_s
    arithmetic = case.num_flops / timing.seconds / ceilings.product_flops_per_s
    row |= {
        "us": timing.seconds * 1e6,
        "is_recorded": timing.is_recorded,
        "bytes_per_s": case.num_bytes / timing.seconds,
        "flops_per_s": case.num_flops / timing.seconds,
        "share": max(bandwidth, arithmetic),
        "of": "bandwidth" if bandwidth >= arithmetic else "arithmetic",
        "aim": case.aim,
    }
    return row | _of_torch(case, sets, repeats)


def num_sets(num_bytes: float, cache_bytes: int) -> int:
    """Return how many sets of so many bytes are twice the cache, from 2 to 256."""
    return max(2, min(MAX_SETS, int(2 * cache_bytes / max(num_bytes, 1.0)) + 1))


def l2_bytes() -> int:
    """Return the size of the GPU's L2 cache; without a GPU a guess."""
    if not torch.cuda.is_available():
        return 2**20
    return int(torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size)


def _of_torch(case: Case, sets: list[Calls], repeats: int) -> dict[str, Any]:
    """Return torch's times; what of it fails says so and leaves ours as it is."""
    others = [theirs for _, theirs in sets]
    found: dict[str, Any] = {}
    try:
        found["torch_us"] = timed(others, repeats).seconds * 1e6
    except Exception as error:
        found["torch_failed"] = _reason(error)
    if not case.compiles:
        return found
    try:
        compiled = torch.compile(others[0].func, dynamic=False)
        calls = [partial(compiled, *each.args, **each.keywords) for each in others]
        found["compiled_us"] = timed(calls, repeats).seconds * 1e6
    except Exception as error:
        found["compiled_failed"] = _reason(error)
    return found


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
