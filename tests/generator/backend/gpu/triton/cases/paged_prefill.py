"""Attention over the paged cache as SmolLM, Llama, Qwen3, Phi, gpt-oss and Gemma launch it."""

import torch

from services.generator.backend.gpu.triton.attention.launch import head_tile
from services.generator.backend.gpu.triton.attention.paged_prefill import (
    paged_prefill_kernel,
    prefill_launch,
)
from tests.generator.backend.gpu.triton.cases.compile_case import POINTERS, CompileCase

STRIDES = ("s_q_token", "s_q_head")
CACHES = {**POINTERS, "float8_e4m3fn": "*fp8e4nv", "int8": "*i8"}


def case(
    dtype: str,
    size: int,
    group: int,
    rows: int = 4096,
    cache: str | None = None,
    has_sinks: bool = False,
    has_window: bool = False,
    has_soft_cap: bool = False,
    is_sm90: bool = False,
) -> CompileCase:
    """Return a launch for heads of `size`, `group` of them to a KV head."""
    dtypes = getattr(torch, dtype), getattr(torch, cache or dtype)
    launch = prefill_launch(*dtypes, size, group, rows, is_sm90)
    flags = (has_sinks, has_window, has_soft_cap)
    present = (flag for flag, is_on in zip(("sinks", "window", "cap"), flags, strict=True) if is_on)
    return CompileCase(
        " ".join(
            ["paged_prefill", dtype, f"{launch.rows}x{launch.keys}x{size}", cache or "", *present]
        ),
        paged_prefill_kernel,
        {
            **dict.fromkeys(("p_q", "p_out"), POINTERS[dtype]),
            **dict.fromkeys(("p_k", "p_v"), CACHES[cache or dtype]),
            **dict.fromkeys(("p_table", "p_starts", "p_lengths"), "*i32"),
            "p_sinks": "*fp32" if has_sinks else POINTERS[dtype],
            **dict.fromkeys(("p_k_scale", "p_v_scale"), "*fp32" if cache else POINTERS[dtype]),
            **dict.fromkeys((*STRIDES, "s_table", "T", "S", "window"), "i32"),
            **dict.fromkeys(("scale", "soft_cap"), "fp32"),
        },
        {
            # eight KV heads in blocks of 16, values beside their keys
            **dict.fromkeys(("s_k_block", "s_v_block"), 16 * 16 * size),
            **dict.fromkeys(("s_k_token", "s_v_token"), 16 * size),
            **dict.fromkeys(("s_k_head", "s_v_head"), size),
            "HAS_SINKS": has_sinks,
            "HAS_SCALES": cache is not None,
            "HAS_WINDOW": has_window,
            "HAS_SOFT_CAP": has_soft_cap,
            "GROUP": group,
            "BLOCK_SIZE": 16,
            "D": size,
            "BM": launch.rows,
            "BN": launch.keys,
            "BD": head_tile(size),
        },
        **launch.options,
        least=(9, 0) if is_sm90 or cache == "float8_e4m3fn" else (8, 0),
        aligned=("p_q", "p_k", "p_v", "p_table", "p_starts", "p_lengths", "p_out", *STRIDES),
    )


CASES = [
    case("bfloat16", 128, 4, is_sm90=True),
    case("float16", 128, 5, is_sm90=True, has_sinks=True, has_window=True),
    case("bfloat16", 96, 1, is_sm90=True, has_window=True, has_soft_cap=True),
    case("bfloat16", 96, 1, is_sm90=True, has_window=True),
    case("bfloat16", 80, 1, is_sm90=True),
    *(
        case("bfloat16", 256, 2, is_sm90=True, has_window=True, has_soft_cap=has_soft_cap)
        for has_soft_cap in (False, True)
    ),
    # a chunk, verified drafts, decodes
    *(case("bfloat16", 128, 4, rows) for rows in (4096, 64, 16)),
    *(case("bfloat16", 64, 3, rows) for rows in (4096, 64, 16)),
    case("float16", 128, 5),
    case("bfloat16", 80, 1),
    case("bfloat16", 96, 1, has_window=True),
    case("bfloat16", 64, 8, has_sinks=True, has_window=True),
    *(case("bfloat16", 256, 2, rows, has_window=True, has_soft_cap=True) for rows in (4096, 16)),
    *(
        case("bfloat16", size, 4, rows, cache)
        for cache in ("float8_e4m3fn", "int8")
        for size, rows in ((64, 4096), (128, 4096), (128, 16), (256, 4096))
    ),
    *(
        case("float32", size, 4, rows)
        for size, rows in ((64, 4096), (128, 4096), (256, 4096), (128, 16))
    ),
]
