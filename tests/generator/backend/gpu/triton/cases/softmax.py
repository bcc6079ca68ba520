"""Softmax over Qwen3's and SmolLM's vocabularies."""

import triton

from services.generator.backend.gpu.triton.sampling.softmax import (
    softmax_kernel,
    softmax_tile,
    softmax_tiles_kernel,
)
from tests.generator.backend.gpu.triton.cases.compile_case import POINTERS, CompileCase

PARTS = {"p_temperature": "*fp32", "p_best": "*fp32", "p_sum": "*fp32"}
CASES: list[CompileCase] = []
for dtype in ("bfloat16", "float32"):
    for vocab in (151936, 49152):
        tile, warps = softmax_tile(vocab)
        logits = {"p_logits": POINTERS[dtype], "s_logits": "i32", "V": "i32"}
        CASES += [
            CompileCase(
                f"softmax tiles {dtype} {vocab}",
                softmax_tiles_kernel,
                {**logits, **PARTS},
                {"BV": tile},
                num_warps=warps,
                aligned=(*logits, *PARTS),
            ),
            CompileCase(
                f"softmax {dtype} {vocab}",
                softmax_kernel,
                {**logits, **PARTS, "p_out": "*fp32", "C": "i32"},
                {"BV": tile, "BC": triton.next_power_of_2(triton.cdiv(vocab, tile))},
                num_warps=warps,
                aligned=(*logits, *PARTS, "p_out"),
            ),
        ]
