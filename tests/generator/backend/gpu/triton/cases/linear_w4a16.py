"""Weights of four bits in groups of 128 and of 32; a bias where K is not split."""

from services.generator.backend.gpu.triton.linear.linear_w4a16 import linear_w4a16_kernel, tiles_for
from services.generator.backend.gpu.triton.linear.split_k import Plan
from tests.generator.backend.gpu.triton.cases.compile_case import POINTERS, CompileCase
from tests.generator.backend.gpu.triton.cases.split_k import DTYPES, plans


def case(name: str, dtype: str, group: int, plan: Plan) -> CompileCase:
    is_split = plan.parts > 1
    return CompileCase(
        f"linear_w4a16 {group} {dtype} {name}",
        linear_w4a16_kernel,
        {
            "p_x": POINTERS[dtype],
            "p_words": "*i32",
            "p_units": "*i32",
            "p_bias": "*i32" if is_split else POINTERS[dtype],
            "p_out": POINTERS["float32" if is_split else dtype],
            **dict.fromkeys(("s_x", "T", "N", "K", "K_PART"), "i32"),
        },
        {"G": group, "HAS_BIAS": not is_split, **plan.constants},
        **plan.options,
        aligned=(
            *("p_x", "p_words", "p_units", "p_bias", "p_out"),
            *("s_x", "N", "K", "K_PART"),
        ),
    )


CASES = [
    case(name, dtype, group, plan)
    for dtype, group in (("bfloat16", 128), ("float16", 32), ("float32", 128))
    for name, plan in plans(
        lambda rows, depth, dtype=dtype, group=group: tiles_for(rows, DTYPES[dtype], depth, group)
    )
]
