"""Products of Qwen3-30B-A3B (E 128, C 8, K 2048, N 1536; K 768, N 2048) and Mixtral (E 8, C 2)."""

import torch

from services.generator.backend.gpu.triton.moe import moe_sort
from services.generator.backend.gpu.triton.moe.grouped_gemm import (
    COMBINE_TILE,
    combine_kernel,
    grouped_gemm_kernel,
    launch_options,
)
from services.generator.backend.gpu.triton.moe.moe_sort import sort_by_expert_kernel
from tests.generator.backend.gpu.triton.cases.compile_case import POINTERS, CompileCase


def sort_case(index: str, pairs: int, num_experts: int, tile: int) -> CompileCase:
    """Return the sort of so many pairs."""
    options = moe_sort.launch_options(pairs, num_experts)
    warps = options.pop("num_warps")
    return CompileCase(
        f"sort_by_expert {index} {pairs} pairs {num_experts} experts",
        sort_by_expert_kernel,
        {
            "p_topk_ids": index,
            **dict.fromkeys(("p_pairs", "p_experts"), "*i32"),
            **dict.fromkeys(("P", "S", "E"), "i32"),
        },
        {"TILE": tile, **options},
        num_warps=warps,
        aligned=("p_topk_ids", "p_pairs", "p_experts"),
    )


def product_case(model: str, dtype: str, choices: int, tile: int) -> CompileCase:
    """Return a product, the first with `choices` rows of the result to a row."""
    options = launch_options(tile, getattr(torch, dtype))
    warps, stages = options.pop("num_warps"), options.pop("num_stages")
    tensors = ("p_x", "p_weights", "p_out")
    indices = ("p_pairs", "p_experts")
    sizes = ("s_x", "s_weights_expert", "s_weights_row", "N", "K")
    return CompileCase(
        f"grouped_gemm {model} {dtype} C {choices} tile {tile}",
        grouped_gemm_kernel,
        {
            **dict.fromkeys(tensors, POINTERS[dtype]),
            **dict.fromkeys(indices, "*i32"),
            **dict.fromkeys((*sizes, "S"), "i32"),
        },
        {"C": choices, **options},
        num_warps=warps,
        num_stages=stages,
        aligned=(*tensors, *indices, *sizes),
    )


def combine_case(dtype: str, choices: int) -> CompileCase:
    """Return the sum of a token's rows."""
    tensors = ("p_outputs", "p_out")
    return CompileCase(
        f"combine {dtype} C {choices}",
        combine_kernel,
        {**dict.fromkeys(tensors, POINTERS[dtype]), "p_topk_weights": "*fp32", "N": "i32"},
        {"C": choices, "BN": COMBINE_TILE},
        aligned=(*tensors, "p_topk_weights", "N"),
    )


CASES = [
    sort_case("*i64", 8, 128, 16),
    sort_case("*i64", 65536, 128, 128),
    sort_case("*i32", 8192, 8, 128),
    *(
        product_case("Qwen3-30B-A3B", "bfloat16", choices, tile)
        for choices in (8, 1)
        for tile in (16, 32, 64, 128)
    ),
    *(product_case("Mixtral", dtype, 2, tile) for dtype in POINTERS for tile in (16, 128)),
    combine_case("bfloat16", 8),
    combine_case("float16", 2),
]
