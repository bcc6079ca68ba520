"""Adapters of rank 16 and 64 on 4,096 by 4,096, and the least and greatest that are else taken."""

import torch

from services.generator.backend.gpu.triton.linear.lora import (
    CHUNK,
    SUM_TILE,
    expand_options,
    lora_expand_add_kernel,
    lora_shrink_kernel,
    shrink_options,
    sum_parts_kernel,
)
from tests.generator.backend.gpu.triton.cases.compile_case import POINTERS, CompileCase

WIDTH = 4096
INDICES = ("p_pairs", "p_adapters")


def shrink_case(dtype: str, rank: int, is_split: bool) -> CompileCase:
    """Return the first product, of one chunk to a program or of all."""
    options = shrink_options(rank, getattr(torch, dtype))
    warps, stages = options.pop("num_warps"), options.pop("num_stages")
    return CompileCase(
        f"lora_shrink {dtype} R {rank}{' split' if is_split else ''}",
        lora_shrink_kernel,
        {
            **dict.fromkeys(("p_x", "p_a"), POINTERS[dtype]),
            **dict.fromkeys(INDICES, "*i32"),
            "p_parts": "*fp32",
            **dict.fromkeys(("s_x", "S", "T", "K"), "i32"),
            **({} if is_split else {"CHUNKS": "i32"}),
        },
        {"R": rank, **options, **({"CHUNKS": 1} if is_split else {})},
        num_warps=warps,
        num_stages=stages,
        aligned=("p_x", "p_a", *INDICES, "p_parts", "s_x", "K"),
    )


def expand_case(dtype: str, rank: int) -> CompileCase:
    """Return the second product."""
    options = expand_options(rank)
    warps = options.pop("num_warps")
    pointers = ("p_y", "p_b", "p_shrunk", "p_scale", *INDICES)
    return CompileCase(
        f"lora_expand_add {dtype} R {rank}",
        lora_expand_add_kernel,
        {
            **dict.fromkeys(("p_y", "p_b"), POINTERS[dtype]),
            **dict.fromkeys(("p_shrunk", "p_scale"), "*fp32"),
            **dict.fromkeys(INDICES, "*i32"),
            **dict.fromkeys(("s_y", "S", "N"), "i32"),
        },
        {"R": rank, **options},
        num_warps=warps,
        aligned=(*pointers, "s_y", "N"),
    )


CASES = [
    *(shrink_case("bfloat16", rank, True) for rank in (8, 16, 32, 64)),
    *(shrink_case("bfloat16", rank, False) for rank in (16, 64)),
    *(shrink_case(dtype, rank, True) for dtype in ("float16", "float32") for rank in (16, 64)),
    CompileCase(
        "lora sum_parts",
        sum_parts_kernel,
        {"p_parts": "*fp32", "p_out": "*fp32", "M": "i32"},
        {"PARTS": WIDTH // CHUNK, "BM": SUM_TILE},
        aligned=("p_parts", "p_out", "M"),
    ),
    *(expand_case("bfloat16", rank) for rank in (8, 16, 32, 64)),
    *(expand_case(dtype, rank) for dtype in ("float16", "float32") for rank in (16, 64)),
]
