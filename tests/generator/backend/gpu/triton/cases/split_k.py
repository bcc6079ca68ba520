"""Sums of parts; and the layers of Qwen3 0.6B and Llama 3 8B that the other linear cases are of."""

from collections.abc import Callable, Iterator

import torch

from services.generator.backend.gpu.triton.linear.split_k import (
    MAX_PARTS,
    SUM_TILE,
    Plan,
    Tiles,
    plan_split_k,
    sum_parts_kernel,
)
from tests.generator.backend.gpu.triton.cases.compile_case import POINTERS, CompileCase

# columns and depth: queries with keys and values, output, gate with up, down
LAYERS = {
    "qwen3 0.6b": [(4096, 1024), (1024, 2048), (6144, 1024), (1024, 3072)],
    "llama 3 8b": [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336)],
}
ROWS = (1, 16, 32, 64, 256)
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
MULTIPROCESSORS = 132


def plans(tiles_for: Callable[[int, int], Tiles]) -> Iterator[tuple[str, Plan]]:
    """Yield the distinct launches of the layers; `tiles_for` takes the rows and the depth."""
    seen = set()
    for model, layers in LAYERS.items():
        for columns, depth in layers:
            for rows in ROWS:
                plan = plan_split_k(rows, columns, depth, tiles_for(rows, depth), MULTIPROCESSORS)
                kind = plan.tiles, plan.parts > 1
                if kind not in seen:
                    seen.add(kind)
                    split = " split" if plan.parts > 1 else ""
                    yield f"T={rows} {columns}x{depth} of {model}{split}", plan


CASES = [
    CompileCase(
        f"sum_parts {dtype}{' bias' if has_bias else ''}",
        sum_parts_kernel,
        {
            "p_parts": POINTERS["float32"],
            "p_bias": POINTERS[dtype if has_bias else "float32"],
            "p_out": POINTERS[dtype],
            **dict.fromkeys(("T", "N", "PARTS"), "i32"),
        },
        {"HAS_BIAS": has_bias, "BPARTS": MAX_PARTS, "BSIZE": SUM_TILE},
        aligned=("p_parts", "p_bias", "p_out", "N"),
    )
    for dtype in DTYPES
    for has_bias in (False, True)
]
