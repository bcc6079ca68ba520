"""RMS norms of SmolLM's, Qwen3's and Llama's widths."""

from services.generator.backend.gpu.triton.elementwise.rms_norm import num_warps, rms_norm_kernel
from tests.generator.backend.gpu.triton.cases.compile_case import POINTERS, CompileCase

CASES = [
    CompileCase(
        f"rms_norm {dtype} {tile}",
        rms_norm_kernel,
        {
            **dict.fromkeys(("p_x", "p_weight", "p_out"), POINTERS[dtype]),
            "s_x": "i32",
            "N": "i32",
            "eps": "fp32",
            "offset": "fp32",
        },
        {"BN": tile},
        num_warps=num_warps(tile),
        aligned=("p_x", "p_weight", "p_out", "s_x", "N"),
    )
    for dtype in ("bfloat16", "float16")
    for tile in (1024, 4096, 8192)
]
