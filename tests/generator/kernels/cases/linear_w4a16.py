"""Weights of four bits in groups of 128 and of 32; a bias where K is not split."""

from services.generator.kernels.linear_plan import Plan
from services.generator.kernels.linear_w4a16 import linear_w4a16_kernel, tiles_for
from tests.generator.kernels.cases.compile_case import POINTERS, CompileCase
from tests.generator.kernels.cases.linear_plan import DTYPES, plans


def case(name: str, dtype: str, group: int, is_awq: bool, plan: Plan) -> CompileCase:
    is_split = plan.parts > 1
    return CompileCase(
        f"linear_w4a16 {'awq' if is_awq else 'gptq'} {group} {dtype} {name}",
        linear_w4a16_kernel,
        {
            "p_x": POINTERS[dtype],
            "p_words": "*i32",
            "p_zeros": "*i32",
            "p_scales": POINTERS["float16"],
            "p_bias": POINTERS["float16"],
            "p_out": POINTERS["float32" if is_split else dtype],
            **dict.fromkeys(("s_x", "T", "N", "K", "G", "K_PART"), "i32"),
        },
        {
            "ZERO_OFFSET": int(not is_awq),
            "IS_AWQ": is_awq,
            "HAS_BIAS": not is_split,
            **plan.constants,
        },
        **plan.options,
        aligned=(
            *("p_x", "p_words", "p_zeros", "p_scales", "p_bias", "p_out"),
            *("s_x", "N", "K", "G", "K_PART"),
        ),
    )


CASES = [
    case(name, dtype, group, is_awq, plan)
    for dtype, group in (("bfloat16", 128), ("float16", 32), ("float32", 128))
    for is_awq in (False, True)
    for name, plan in plans(
        lambda rows, depth, dtype=dtype, group=group: tiles_for(rows, DTYPES[dtype], depth, group)
    )
]
