"""Penalties over Qwen3's and SmolLM's vocabularies."""

from services.generator.backend.gpu.triton.sampling.penalties import (
    apply_penalties_kernel,
    penalties_tile,
)
from tests.generator.backend.gpu.triton.cases.compile_case import CompileCase

POINTERS = {
    "p_logits": "*fp32",
    "p_counts": "*i32",
    "p_prompt": "*u8",
    **dict.fromkeys(("p_repetition", "p_frequency", "p_presence"), "*fp32"),
}
SIZES = dict.fromkeys(("s_logits", "s_counts", "s_prompt", "V"), "i32")
CASES = [
    CompileCase(
        f"penalties {vocab}",
        apply_penalties_kernel,
        {**POINTERS, **SIZES},
        {"BV": penalties_tile(vocab)[0]},
        num_warps=penalties_tile(vocab)[1],
        aligned=(*POINTERS, *SIZES),
    )
    for vocab in (151936, 49152)
]
