"""Sampling from Qwen3's and SmolLM's vocabularies; rows that need not be aligned, and that are."""

import torch
import triton

from services.generator.backend.gpu.triton.sampling.sample import (
    sample_rows_kernel,
    sample_tile,
    sample_tiles_kernel,
)
from services.generator.backend.gpu.triton.sampling.sampling_bounds import (
    SHIFTS,
    bounds_tile,
    sampling_bounds_kernel,
)
from tests.generator.backend.gpu.triton.cases.compile_case import POINTERS, CompileCase

FILTERS = {"p_top_k": "*i32", "p_top_p": "*fp32", "p_min_p": "*fp32"}
BOUNDS = {"p_low": "*fp32", "p_high": "*fp32", "p_tie_end": "*i32"}
DRAWS = {"p_seeds": "*i64", "p_positions": "*i64"}
PARTS = {"p_scores": "*fp32", "p_ids": "*i32"}
CASES: list[CompileCase] = []
for dtype in ("bfloat16", "float32"):
    for vocab, is_aligned in ((151936, True), (49152, True), (49152, False)):
        name = f"{dtype} {vocab}{'' if is_aligned else ' unaligned'}"
        given = {"p_logits": POINTERS[dtype], "p_temperature": "*fp32", **BOUNDS}
        sizes = {"s_logits": "i32", "V": "i32"}
        aligned = (*given, *(sizes if is_aligned else ()))
        tile, warps = bounds_tile(vocab)
        CASES.append(
            CompileCase(
                f"sample bounds {name}",
                sampling_bounds_kernel,
                {**given, **FILTERS, "p_kept": POINTERS[dtype], **sizes},
                {"SHIFT": SHIFTS[getattr(torch, dtype)], "BV": tile},
                num_warps=warps,
                aligned=(*aligned, *FILTERS, "p_kept"),
            )
        )
        tile, warps = sample_tile(vocab)
        CASES.append(
            CompileCase(
                f"sample tiles {name}",
                sample_tiles_kernel,
                {**given, **DRAWS, **PARTS, **sizes},
                {"BV": tile},
                num_warps=warps,
                aligned=(*aligned, *DRAWS, *PARTS),
            )
        )
for vocab in (151936, 49152):
    tiles = triton.cdiv(vocab, sample_tile(vocab)[0])
    CASES.append(
        CompileCase(
            f"sample rows {vocab}",
            sample_rows_kernel,
            {**PARTS, "p_tokens": "*i64", "C": "i32"},
            {"BC": triton.next_power_of_2(tiles)},
            num_warps=1,
            aligned=(*PARTS, "p_tokens"),
        )
    )
