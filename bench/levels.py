"""Products of every format at every level of this processor, on the shapes of SmolLM2-135M.

    python -m bench.levels [--rows 1 8 32 128 512]

All products of all layers in one recorded program, so that weights come from memory as in a step;
interleaved, best of nine. Writes bench/results/levels.json.
"""

import argparse
import ctypes
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from bench.common.machine import describe
from services.generator.backend.cpu.linear.float_linear import float_linear
from services.generator.backend.cpu.linear.grouped_linear import grouped_linear
from services.generator.backend.cpu.linear.native_linear import NativeLinear
from services.generator.backend.cpu.native import levels
from services.generator.backend.cpu.program import Program
from services.generator.model.checkpoint.grouped_weight import GroupedWeight

RESULT = Path(__file__).parent / "results" / "levels.json"
SHAPES = ((960, 576), (576, 576), (3072, 576), (576, 1536))
LAYERS, REPEATS = 30, 9


def _layers(kind: str) -> list[NativeLinear]:
    """Return all products of a format."""
    made = []
    for _ in range(LAYERS):
        for shape in SHAPES:
            weight = torch.randn(shape)
            if kind == "16 bits":
                linear: NativeLinear | None = float_linear(weight.to(torch.bfloat16))
            else:
                bits, exact = int(kind.split()[0]), kind.endswith("exact")
                grouped = GroupedWeight.quantized(weight, bits)
                linear = grouped_linear(grouped, torch.float32, exact=exact)
            assert linear is not None, "no compiler is here"
            made.append(linear)
    return made


def _program(layers: Sequence[NativeLinear], num_rows: int) -> Callable[[], None]:
    rows = ctypes.c_int64(num_rows)
    scratch = torch.empty(max(each.scratch_bytes(num_rows) for each in layers), dtype=torch.uint8)
    inputs = {each.in_features: torch.randn(num_rows, each.in_features) for each in layers}
    outputs = {each.out_features: torch.empty(num_rows, each.out_features) for each in layers}
    calls = []
    for each in layers:
        x, out = inputs[each.in_features], outputs[each.out_features]
        calls += each.calls(x, out, rows, scratch)
    program = Program(calls)
    kept = (rows, scratch, inputs, outputs)

    def run() -> None:
        program.run()
        assert kept

    return run


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32, 128, 512])
    options = parser.parse_args()
    results = []
    kinds = ("16 bits", "8 bits", "4 bits", "8 bits exact", "4 bits exact")
    for level in levels.available():
        levels.use(level.name)
        formats = {kind: _layers(kind) for kind in kinds}
        for num_rows in options.rows:
            runs = {kind: _program(layers, num_rows) for kind, layers in formats.items()}
            best = dict.fromkeys(kinds, float("inf"))
            for _ in range(REPEATS):
                for kind, run in runs.items():
                    begin = time.perf_counter()
                    run()
                    best[kind] = min(best[kind], time.perf_counter() - begin)
            work = 2e-9 * num_rows * LAYERS * sum(rows * columns for rows, columns in SHAPES)
            rates = {kind: round(work / seconds, 1) for kind, seconds in best.items()}
            results.append({"level": level.name, "rows": num_rows, "gop_per_s": rates})
            print(f"{level.name:<12} {num_rows:>4} rows  {rates}", flush=True)
    RESULT.write_text(json.dumps({**describe(), "products": results}, indent=2) + "\n")
    print(f"written to {RESULT}")


if __name__ == "__main__":
    main()
