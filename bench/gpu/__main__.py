"""The generator on a GPU: each kernel against torch, and the engine, all gated before it is timed.

    python -m bench.gpu [--part kernels|engine|all] [--quick] [--only attention "decode, llama"]

Needs torch, triton and a CUDA device; transformers is compared where it is installed. Ceilings
first: a large copy, a large product. Kernels take turns over sets of inputs beyond the L2 cache,
launched by CUDA graphs: microseconds, GB/s or TFLOP/s, the share of the ceiling, and torch's time
for the same, eager and compiled. The engine, over random weights: gates against the CPU, decode
rates against the time of reading weights and contexts once, and nano-vLLM's workload.

What fails is told with its reason and the rest goes on; the exit code is 1 then. A missed aim is no
failure. Writes bench/results/gpu.json with every row; gpu-partial.json with --quick, --only or
--device cpu.
"""

import argparse
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench.common.machine import describe
from bench.gpu.aims import aims, table
from bench.gpu.engine.shapes import SHAPES
from bench.gpu.parts import Plan, Row, engine_rows, kernel_rows
from bench.gpu.record import Record
from bench.gpu.row_text import line
from bench.gpu.worker_client import Ask, WorkerClient

RESULT = Path(__file__).parents[1] / "results" / "gpu.json"
CEILINGS_LIMIT_S = 300.0
Part = Callable[[Ask, Plan, Mapping[str, Any]], Iterator[Row]]
PARTS: Mapping[str, Part] = {"kernels": kernel_rows, "engine": engine_rows}


def main() -> None:
    """Measure, print, write; exit with 1 where something failed."""
    # an end by `kill` has to end the worker too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    options = _parse_options()
    plan = _plan(options)
    if plan.device != "cpu" and not torch.cuda.is_available():
        sys.exit("bench.gpu needs a CUDA device")
    names = list(PARTS) if options.part == "all" else [options.part]
    if plan.device == "cpu":
        # the kernels are not for it
        names = ["engine"]
    with WorkerClient() as client:
        rows = run(client, plan, names, Record(options.output))
    if found := aims(rows):
        print(f"\n{table(found)}")
    print(f"\nwritten to {options.output.name}")
    failed = [str(row["name"]) for row in rows if "failed" in row]
    if failed:
        sys.exit(f"failed: {'; '.join(failed)}")


def run(client: WorkerClient, plan: Plan, names: list[str], record: Record) -> list[Row]:
    """Measure the parts, print and keep each row as it comes, and return all."""
    question = {"do": "ceilings", "device": plan.device, "repeats": plan.repeats}
    ceilings = client.ask(question, CEILINGS_LIMIT_S)
    origin = {**describe(), "plan": plan.fields(), **ceilings}
    if "failed" in ceilings:
        row = {"kind": "ceilings", "name": "ceilings", **ceilings}
        print(line(row))
        return [row]
    for name in names:
        record.begin(name, origin)
    print(
        f"{ceilings['device']}: copies {ceilings['copy_bytes_per_s'] / 1e12:.2f} TB/s, "
        f"multiplies {ceilings['product_flops_per_s'] / 1e12:.0f} TFLOP/s",
        flush=True,
    )
    rows: list[Row] = []
    for name in names:
        for row in PARTS[name](client.ask, plan, ceilings):
            rows.append(row)
            record.add(name, row)
            print(line(row), flush=True)
        # the next part has the whole device
        client.restart()
    return rows


def _plan(options: argparse.Namespace) -> Plan:
    plan = Plan.quick() if options.quick else Plan()
    plan = replace(plan, device=options.device, only=options.only)
    if options.shapes:
        plan = replace(plan, shapes=options.shapes)
    if options.batches:
        plan = replace(plan, batches=options.batches)
    if options.repeats:
        plan = replace(plan, repeats=options.repeats)
    return plan


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "bench.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=(*PARTS, "all"), default="all")
    parser.add_argument("--quick", action="store_true", help="few and short, to see that it works")
    parser.add_argument("--only", nargs="+", default=[], help="parts of rows' names")
    parser.add_argument("--repeats", type=int, default=0)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=[])
    parser.add_argument("--batches", type=int, nargs="+", default=[])
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu tries it out"
    )
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    is_cut = options.quick or options.only or options.shapes or options.batches or options.repeats
    is_whole = not is_cut and options.device == "cuda"
    options.output = options.output or (RESULT if is_whole else RESULT.with_stem("gpu-partial"))
    return options


if __name__ == "__main__":
    main()
