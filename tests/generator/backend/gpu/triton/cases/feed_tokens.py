"""Tokens from one step to the next."""

from services.generator.backend.gpu.triton.elementwise.feed_tokens import TILE, feed_tokens_kernel
from tests.generator.backend.gpu.triton.cases.compile_case import CompileCase

CASES = [
    CompileCase(
        "feed_tokens",
        feed_tokens_kernel,
        {**dict.fromkeys(("p_ids", "p_sources", "p_drawn"), "*i64"), "T": "i32"},
        {"BT": TILE},
        num_warps=4,
        aligned=("p_ids", "p_sources", "p_drawn"),
    )
]
