"""The CPU kernels of the generator against oneDNN's and torch's, interleaved, best of N.

    python -m bench.kernels [--threads 2] [--repeats 20]

Shapes of SmolLM-135M and Qwen3-0.6B in bfloat16. Weights take turns in a set larger than the
caches, so that every call of few rows reads memory. Prints a table and writes
bench/results/kernels.json.
"""

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from bench.common.checkpoints import QWEN3_0_6B, SMOLLM_135M
from bench.common.machine import describe
from services.generator.backend.cpu.attention.paged_attention import attention
from services.generator.backend.cpu.gated_activation import gated_activation
from services.generator.backend.cpu.linear.bf16_linear import bf16_linear
from services.generator.backend.cpu.linear.onednn_linear import OneDnnLinear
from services.generator.backend.cpu.rms_norm import RMSNorm
from services.generator.model.block_tables import BlockTables
from services.generator.model.checkpoint.config import ModelConfig
from services.generator.model.kv_cache import KVCache

RESULT = Path(__file__).parent / "results" / "kernels.json"
SHAPES = {"smollm-135m": SMOLLM_135M, "qwen3-0.6b": QWEN3_0_6B}
LINEARS = ((576, 960), (576, 3072), (1536, 576), (576, 49152), (1024, 6144), (3072, 1024))
WEIGHT_SET_BYTES = 120e6
BLOCK_SIZE = 16
Call = Callable[[], object]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser("bench.kernels", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = []
    with torch.inference_mode():
        for name, ours, other in (*linears(), *gates(), *norms(), *attentions()):
            best = timed(ours, other, options.repeats)
            rows.append({"kernel": name, "ours_us": best[0] * 1e6, "other_us": best[1] * 1e6})
            print(
                f"{name:<44} {rows[-1]['ours_us']:>9.1f} us  {rows[-1]['other_us']:>9.1f} us"
                f"  {best[1] / best[0]:5.2f}x",
                flush=True,
            )
    result = {**describe(), "options": vars(options), "rows": rows}
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {RESULT.name}")


def timed(ours: Call, other: Call, repeats: int) -> tuple[float, float]:
    """Return the best seconds of each; a turn lasts at least a millisecond."""
    started_s = time.perf_counter()
    ours()
    count = max(1, int(1e-3 / (time.perf_counter() - started_s)))
    best = [float("inf"), float("inf")]
    for _ in range(repeats):
        for index, call in enumerate((ours, other)):
            started_s = time.perf_counter()
            for _ in range(count):
                call()
            best[index] = min(best[index], (time.perf_counter() - started_s) / count)
    return best[0], best[1]


def linears() -> Iterator[tuple[str, Call, Call]]:
    """Our bfloat16 product against oneDNN's packed one."""
    for inputs, outputs in LINEARS:
        count = max(1, int(WEIGHT_SET_BYTES / (inputs * outputs * 2)))
        weights = [(torch.randn(outputs, inputs) / inputs**0.5).bfloat16() for _ in range(count)]
        ours = [made for weight in weights if (made := bf16_linear(weight)) is not None]
        if not ours:
            print("bfloat16 products are oneDNN's on this machine")
            return
        others = [OneDnnLinear(weight, batch_invariant=False) for weight in weights]
        for rows in (1, 8, 32, 128, 512):
            x = torch.randn(rows, inputs).bfloat16()
            yield f"linear {inputs} -> {outputs}, {rows} rows", turns(ours, x), turns(others, x)


def turns(products: Any, x: torch.Tensor) -> Call:
    """Return a call of each product in turn."""
    endless = itertools.cycle(products)
    return lambda: next(endless)(x)


def gates() -> Iterator[tuple[str, Call, Call]]:
    """SwiGLU in one pass against torch's two, which are not batch-invariant."""
    gate = gated_activation("silu", torch.bfloat16)
    other = gated_activation("silu", torch.bfloat16, batch_invariant=False, kernels="torch")
    for rows in (1, 32, 512):
        x = torch.randn(rows, 3072).bfloat16()
        yield f"gate 1536, {rows} rows", partial(gate, x), partial(other, x)


def norms() -> Iterator[tuple[str, Call, Call]]:
    """RMS norm compiled against torch's."""
    weight = torch.randn(576).bfloat16()
    norm = RMSNorm(weight, 1e-5)
    for rows in (1, 32, 512):
        x = torch.randn(rows, 576).bfloat16()
        torchs = partial(functional.rms_norm, x, (576,), weight, 1e-5)
        yield f"norm 576, {rows} rows", partial(norm, x), torchs


def attentions() -> Iterator[tuple[str, Call, Call]]:
    """One layer's attention compiled against torch's: decodes of a batch, and prompt chunks."""
    for shape, fields in SHAPES.items():
        config = read(fields)
        ours, other = (attention(config, None, torch.bfloat16, each) for each in ("auto", "torch"))
        decodes = [(batch, 1, length) for length in (128, 1024, 4096) for batch in (1, 8, 32)]
        chunks = [(1, size, before + size) for before in (0, 2048) for size in (128, 512)]
        for batch, new, length in decodes + chunks:
            blocks = -(-length // BLOCK_SIZE)
            cache = KVCache(config, batch * blocks, BLOCK_SIZE, torch.bfloat16)
            cache.layers[0].slots.normal_()
            block_ids = [list(range(row * blocks, (row + 1) * blocks)) for row in range(batch)]
            slots = [
                table[p // BLOCK_SIZE] * BLOCK_SIZE + p % BLOCK_SIZE
                for table in block_ids
                for p in range(length - new, length)
            ]
            tables = BlockTables(torch.tensor(slots), [new] * batch, [length] * batch, block_ids)
            qkv = torch.randn(batch * new, config.q_size + 2 * config.kv_size).bfloat16()
            what = f"{batch} decodes" if new == 1 else f"chunk of {new}"
            layer = cache.layers[0]
            calls = [
                partial(each, qkv, layer, each.plan(tables, BLOCK_SIZE)) for each in (ours, other)
            ]
            yield f"attention {shape}, {what}, context {length}", calls[0], calls[1]


def read(fields: Mapping[str, Any]) -> ModelConfig:
    """Return the config of a shape, of which one layer is enough."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps({**fields, "num_hidden_layers": 1}))
        return ModelConfig.read(Path(folder))


if __name__ == "__main__":
    main()
