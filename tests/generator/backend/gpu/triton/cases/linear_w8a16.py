"""Weights of eight bits; a bias where K is not split, for then the kernel itself adds it."""

from services.generator.backend.gpu.triton.linear.linear_w8a16 import TABLE, linear_w8a16_kernel
from services.generator.backend.gpu.triton.linear.split_k import Plan, choose
from tests.generator.backend.gpu.triton.cases.compile_case import POINTERS, CompileCase
from tests.generator.backend.gpu.triton.cases.split_k import DTYPES, plans


def case(name: str, dtype: str, plan: Plan) -> CompileCase:
    is_split = plan.parts > 1
    return CompileCase(
        f"linear_w8a16 {dtype} {name}",
        linear_w8a16_kernel,
        {
            "p_x": POINTERS[dtype],
            "p_weight": "*i8",
            "p_scales": POINTERS["float32"],
            "p_bias": POINTERS["float32" if is_split else dtype],
            "p_out": POINTERS["float32" if is_split else dtype],
            **dict.fromkeys(("s_x", "T", "N", "K", "K_PART"), "i32"),
        },
        {"HAS_BIAS": not is_split, **plan.constants},
        **plan.options,
        aligned=(
            *("p_x", "p_weight", "p_scales", "p_bias", "p_out"),
            *("s_x", "N", "K", "K_PART"),
        ),
    )


CASES = [
    case(name, dtype, plan)
    for dtype in DTYPES
    for name, plan in plans(lambda rows, _, dtype=dtype: choose(TABLE[DTYPES[dtype]], rows))
]
