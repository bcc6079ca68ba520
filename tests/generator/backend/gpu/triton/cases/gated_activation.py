"""Gated units as wide as those of Llama, Qwen3, SmolLM and Gemma 3."""

from services.generator.backend.gpu.triton.elementwise.elementwise_tiles import (
    NUM_WARPS,
    elementwise_tile,
)
from services.generator.backend.gpu.triton.elementwise.gated_activation import (
    gated_activation_kernel,
)
from tests.generator.backend.gpu.triton.cases.compile_case import POINTERS, CompileCase


def case(dtype: str, width: int, is_gelu: bool) -> CompileCase:
    rows, columns = elementwise_tile(width)
    return CompileCase(
        f"gated_activation {dtype} {width} {'gelu_tanh' if is_gelu else 'silu'}",
        gated_activation_kernel,
        {
            **dict.fromkeys(("p_x", "p_out"), POINTERS[dtype]),
            **dict.fromkeys(("s_x", "T"), "i32"),
        },
        {"N": width, "IS_GELU": is_gelu, "BT": rows, "BN": columns},
        num_warps=NUM_WARPS,
        aligned=("p_x", "p_out", "s_x"),
    )


CASES = [
    *(case("bfloat16", width, False) for width in (14336, 3072, 1536, 768)),
    *(case("bfloat16", width, True) for width in (6912, 10240)),
    case("float16", 14336, False),
    case("float32", 1536, True),
]
