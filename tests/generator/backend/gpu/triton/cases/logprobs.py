"""Log-probabilities over Qwen3's and SmolLM's vocabularies, with few and many of the best."""

import torch
import triton

from services.generator.backend.gpu.triton.sampling.logprobs import (
    logprobs_rows_kernel,
    logprobs_tile,
    logprobs_tiles_kernel,
    row_warps,
)
from services.generator.backend.gpu.triton.sampling.sampling_bounds import SHIFTS
from tests.generator.backend.gpu.triton.cases.compile_case import POINTERS, CompileCase

PARTS = {"p_best": "*fp32", "p_sum": "*fp32", "p_above": "*i32", "p_candidates": "*i64"}
RESULTS = {"p_chosen": "*fp32", "p_rank": "*i32", "p_top_values": "*fp32", "p_top_ids": "*i64"}
CASES: list[CompileCase] = []
for dtype in ("bfloat16", "float32"):
    for vocab, num_top in ((151936, 5), (151936, 0), (151936, 32), (49152, 20)):
        tile, warps = logprobs_tile(vocab)
        tiles = triton.cdiv(vocab, tile)
        width = triton.next_power_of_2(max(1, tiles * num_top))
        given = {"p_logits": POINTERS[dtype], "p_token_ids": "*i64", "s_logits": "i32", "V": "i32"}
        CASES += [
            CompileCase(
                f"logprobs tiles {dtype} {vocab} top {num_top}",
                logprobs_tiles_kernel,
                {**given, **PARTS},
                {"N": num_top, "SHIFT": SHIFTS[getattr(torch, dtype)], "BV": tile},
                num_warps=warps,
                aligned=(*given, *PARTS),
            ),
            CompileCase(
                f"logprobs rows {dtype} {vocab} top {num_top}",
                logprobs_rows_kernel,
                {**given, **PARTS, **RESULTS, "C": "i32"},
                {"N": num_top, "BC": triton.next_power_of_2(tiles), "BN": width},
                num_warps=row_warps(width),
                aligned=(*given, *PARTS, *RESULTS),
            ),
        ]
