"""Decode of Llama's and Qwen's (128), SmolLM's (64), Phi's (80, 96) and Gemma's (256) heads."""

from services.generator.backend.gpu.triton.attention.launch import head_tile
from services.generator.backend.gpu.triton.attention.paged_decode import (
    MAX_SPLITS,
    MIN_SPLIT_TILES,
    decode_launch,
    paged_decode_reduce_kernel,
    paged_decode_split_kernel,
    reduce_warps,
)
from tests.generator.backend.gpu.triton.cases.compile_case import POINTERS, CompileCase

BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
CACHES = {**POINTERS, "int8": "*i8", "float8_e4m3fn": "*fp8e4nv"}
STRIDES = ("s_q_token", "s_q_head", "s_table")


def split_case(
    dtype: str, size: int, group: int = 4, cache: str | None = None, has_soft_cap: bool = False
) -> CompileCase:
    """One launch of the kernel over splits, in pages of 16 tokens."""
    launch = decode_launch(BYTES[dtype], size, group)
    pointers = {
        "p_q": POINTERS[dtype],
        **dict.fromkeys(("p_k", "p_v"), CACHES[cache or dtype]),
        **dict.fromkeys(("p_table", "p_lengths"), "*i32"),
        **dict.fromkeys(("p_k_scale", "p_v_scale"), "*fp32" if cache else POINTERS[dtype]),
        **dict.fromkeys(("p_partial", "p_lse"), "*fp32"),
    }
    return CompileCase(
        f"paged_decode {dtype} {size} group {group}"
        f"{f' over {cache}' if cache else ''}{' soft cap' if has_soft_cap else ''}",
        paged_decode_split_kernel,
        {
            **pointers,
            **dict.fromkeys((*STRIDES, "busy", "window"), "i32"),
            **dict.fromkeys(("scale", "soft_cap"), "fp32"),
        },
        {
            # eight KV heads in blocks of 16, values beside their keys
            **dict.fromkeys(("s_k_block", "s_v_block"), 16 * 16 * size),
            **dict.fromkeys(("s_k_token", "s_v_token"), 16 * size),
            **dict.fromkeys(("s_k_head", "s_v_head"), size),
            "GROUP": group,
            "D": size,
            "BLOCK_SIZE": 16,
            "HAS_SOFT_CAP": has_soft_cap,
            "HAS_SCALES": cache is not None,
            "BM": launch.rows,
            "BD": head_tile(size),
            "BN": launch.keys,
            "MIN_TILES": MIN_SPLIT_TILES,
        },
        **launch.options,
        least=(9, 0) if cache == "float8_e4m3fn" else (8, 0),
        aligned=(*pointers, *STRIDES, "window"),
    )


def reduce_case(dtype: str, size: int, splits: int, has_sinks: bool) -> CompileCase:
    """One launch of the reduction."""
    launch = decode_launch(BYTES[dtype], size, 4)
    pointers = {
        **dict.fromkeys(("p_partial", "p_lse", "p_sinks"), "*fp32"),
        "p_lengths": "*i32",
        "p_out": POINTERS[dtype],
    }
    return CompileCase(
        f"paged_decode reduce {dtype} {size} of {splits}{' sinks' if has_sinks else ''}",
        paged_decode_reduce_kernel,
        {**pointers, "busy": "i32", "window": "i32"},
        {
            "HAS_SINKS": has_sinks,
            "D": size,
            "SPLITS": splits,
            "BD": head_tile(size),
            "BN": launch.keys,
            "MIN_TILES": MIN_SPLIT_TILES,
        },
        num_warps=reduce_warps(splits * head_tile(size)),
        aligned=(*pointers, "window"),
    )


CASES = [
    *(split_case("bfloat16", size) for size in (128, 64, 80, 96, 256)),
    split_case("bfloat16", 64, group=64),
    split_case("bfloat16", 128, group=32),
    split_case("bfloat16", 256, group=64),
    split_case("bfloat16", 256, has_soft_cap=True),
    split_case("float16", 128),
    *(split_case("float32", size) for size in (64, 128, 256)),
    *(split_case("bfloat16", 128, cache=cache) for cache in ("int8", "float8_e4m3fn")),
    *(split_case("bfloat16", 256, cache=cache) for cache in ("int8", "float8_e4m3fn")),
    split_case("float16", 128, cache="float8_e4m3fn"),
    split_case("float32", 128, cache="int8"),
    *(reduce_case("bfloat16", 128, splits, False) for splits in (1, 16, MAX_SPLITS)),
    reduce_case("bfloat16", 64, MAX_SPLITS, True),
    reduce_case("bfloat16", 256, MAX_SPLITS, False),
]
