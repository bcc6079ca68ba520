"""Eight-bit floats on sm_90; a bias where K is not split, for then the kernel itself adds it."""

from services.generator.backend.gpu.triton.elementwise.rms_norm import num_warps
from services.generator.backend.gpu.triton.linear.linear_fp8 import (
    LEAST_CAPABILITY,
    TABLE,
    linear_fp8_kernel,
    quantize_fp8_kernel,
)
from services.generator.backend.gpu.triton.linear.split_k import Plan, choose
from tests.generator.backend.gpu.triton.cases.compile_case import POINTERS, CompileCase
from tests.generator.backend.gpu.triton.cases.split_k import plans

FP8 = "*fp8e4nv"


def product(name: str, dtype: str, plan: Plan) -> CompileCase:
    is_split = plan.parts > 1
    return CompileCase(
        f"linear_fp8 {dtype} {name}",
        linear_fp8_kernel,
        {
            "p_x": FP8,
            "p_weight": FP8,
            "p_x_scale": POINTERS["float32"],
            "p_weight_scale": POINTERS["float32"],
            "p_bias": POINTERS["float32" if is_split else dtype],
            "p_out": POINTERS["float32" if is_split else dtype],
            **dict.fromkeys(("s_x", "s_x_scale", "s_weight_scale"), "i32"),
            **dict.fromkeys(("T", "N", "K", "K_PART"), "i32"),
        },
        {"HAS_BIAS": not is_split, **plan.constants},
        **plan.options,
        least=LEAST_CAPABILITY,
        aligned=(
            *("p_x", "p_weight", "p_x_scale", "p_weight_scale", "p_bias", "p_out"),
            *("s_x", "N", "K", "K_PART"),
        ),
    )


CASES = [
    *(
        product(name, dtype, plan)
        for dtype in ("bfloat16", "float16")
        for name, plan in plans(lambda rows, _: choose(TABLE, rows))
    ),
    *(
        CompileCase(
            f"quantize_fp8 {dtype} {tile}",
            quantize_fp8_kernel,
            {
                "p_x": POINTERS[dtype],
                "p_out": FP8,
                "p_scales": POINTERS["float32"],
                "s_x": "i32",
                "N": "i32",
            },
            {"BN": tile},
            num_warps=num_warps(tile),
            least=LEAST_CAPABILITY,
            aligned=("p_x", "p_out", "p_scales", "s_x", "N"),
        )
        for dtype in ("bfloat16", "float16")
        for tile in (1024, 4096, 16384)
    ),
]
