"""Prefill of a prompt of 512 tokens in every format at every level, beside what products reach.

    python -m bench.prefill [--levels avx2 avx512_bf16] [--tokens 512]

SmolLM-135M's shape with random weights. `of the products` is the share of the rate that the
fastest product of that format reaches at that level on two large matrices, measured in the same
run: what is missing goes to attention, norms, gates, to shapes that are small, and to the rest of
the step. Interleaved, best of nine. Writes bench/results/prefill.json.
"""

import argparse
import ctypes
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from bench.common.checkpoints import SMOLLM_135M, num_linear_weights, write_checkpoint
from bench.common.machine import describe
from services.generator.backend.cpu.linear.bf16_linear import bf16_linear
from services.generator.backend.cpu.linear.float_linear import float_linear
from services.generator.backend.cpu.linear.grouped_linear import grouped_linear
from services.generator.backend.cpu.linear.native_linear import NativeLinear
from services.generator.backend.cpu.native import levels
from services.generator.backend.cpu.program import Program
from services.generator.engine import Engine, EngineConfig, SamplingParams
from services.generator.loading import load_engine
from services.generator.model.checkpoint.grouped_weight import GroupedWeight

RESULT = Path(__file__).parent / "results" / "prefill.json"
FORMATS = {"16 bits": None, "int8": "int8", "int4": "int4"}
LARGE = ((4096, 1024), (1024, 4096))
REPEATS = 9
Timed = Callable[[], None]


@dataclass(frozen=True)
class Row:
    """The best prefill of one format at one level, and its products at their best."""

    level: str
    format: str
    tokens_per_s: float
    gops: float
    product_gops: float
    share: float

    def __str__(self) -> str:
        return (
            f"{self.level:12} {self.format:8} {self.tokens_per_s:6.0f} tokens/s,"
            f" {self.gops:5.0f} of {self.product_gops:5.0f} GOP/s: {self.share:.0%}"
        )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser("bench.prefill", description=__doc__)
    here = [level.name for level in levels.available()]
    parser.add_argument("--levels", nargs="+", choices=here, default=here)
    parser.add_argument("--tokens", type=int, default=512)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_checkpoint(Path(scratch), SMOLLM_135M)
        for level in options.levels:
            for name, quantization in FORMATS.items():
                row = _measure(folder, level, name, quantization, options.tokens)
                rows.append(asdict(row))
                print(row, flush=True)
    result = {**describe(), "threads": torch.get_num_threads(), "rows": rows}
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\nwritten to {RESULT}")


def _measure(folder: Path, level: str, name: str, quantization: str | None, num_tokens: int) -> Row:
    engine = load_engine(
        EngineConfig(
            *(folder,),
            kv_cache_bytes=2**28,
            cpu_level=level,
            quantization=quantization,
            max_batched_tokens=num_tokens,
            prefix_caching=False,
        )
    )
    products = [_product(size, quantization, num_tokens) for size in LARGE]
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(3, 40000, (num_tokens,), generator=generator).tolist()
    prefill_s = product_s = float("inf")
    for _ in range(REPEATS):
        prefill_s = min(prefill_s, _seconds(lambda: _prefill(engine, prompt)))
        product_s = min(product_s, sum(_seconds(run) for run in products))
    head = SMOLLM_135M["vocab_size"] * SMOLLM_135M["hidden_size"]
    operations = 2 * (num_linear_weights(SMOLLM_135M) - head) * num_tokens
    product_operations = 2 * num_tokens * sum(outputs * inputs for outputs, inputs in LARGE)
    gops, product_gops = operations / prefill_s / 1e9, product_operations / product_s / 1e9
    share = gops / product_gops
    return Row(level, name, num_tokens / prefill_s, gops, product_gops, share)


def _prefill(engine: Engine, prompt: list[int]) -> None:
    engine.add("prompt", prompt, SamplingParams(max_tokens=1, temperature=0, ignore_eos=True))
    while engine.has_work:
        engine.step()


def _product(size: tuple[int, int], quantization: str | None, num_rows: int) -> Timed:
    """Return a run of one product in the dtype that the level's rows have."""
    weight = torch.randn(size)
    dtype = torch.bfloat16 if levels.multiplies_bf16() else torch.float32
    if quantization is not None:
        bits = {"int8": 8, "int4": 4}[quantization]
        linear: NativeLinear | None = grouped_linear(GroupedWeight.quantized(weight, bits), dtype)
    elif dtype == torch.bfloat16:
        linear = bf16_linear(weight.to(torch.bfloat16))
    else:
        linear = float_linear(weight.to(torch.bfloat16))
    assert linear is not None, "no compiler is here"
    rows = ctypes.c_int64(num_rows)
    scratch = torch.empty(linear.scratch_bytes(num_rows), dtype=torch.uint8)
    x, out = torch.randn(num_rows, size[1]).to(dtype), torch.empty(num_rows, size[0], dtype=dtype)
    program = Program(linear.calls(x, out, rows, scratch))
    kept = (linear, rows, scratch, x, out)

    def run() -> None:
        program.run()
        assert kept

    return run


def _seconds(run: Timed) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
