"""Weights of four bits in groups of 128 and of 32; a bias where K is not split.

With offsets too, in float16 as of GGUF's Q4_1 and in float32 as of its Q4_K.
"""

from services.generator.backend.gpu.triton.linear.linear_w4a16 import linear_w4a16_kernel, tiles_for
from services.generator.backend.gpu.triton.linear.split_k import Plan
from tests.generator.backend.gpu.triton.cases.compile_case import POINTERS, CompileCase
from tests.generator.backend.gpu.triton.cases.split_k import DTYPES, plans


def case(name: str, dtype: str, group: int, plan: Plan, offsets: str | None = None) -> CompileCase:
    is_split = plan.parts > 1
    units = "*i64" if offsets == "float32" else "*i32"
    return CompileCase(
        f"linear_w4a16 {group} {dtype} {name}" + (f" offsets {offsets}" if offsets else ""),
        linear_w4a16_kernel,
        {
            "p_x": POINTERS[dtype],
            "p_words": "*i32",
            "p_units": units,
            "p_bias": units if is_split else POINTERS[dtype],
            "p_out": POINTERS["float32" if is_split else dtype],
            **dict.fromkeys(("s_x", "T", "N", "K", "K_PART", "unit"), "i32"),
        },
        {
            "G": group,
            "HAS_OFFSETS": bool(offsets),
            "STAGES": plan.tiles.num_stages if offsets else None,
            "HAS_BIAS": not is_split,
            **plan.constants,
        },
        **plan.options,
        aligned=(
            *("p_x", "p_words", "p_units", "p_bias", "p_out"),
            *("s_x", "N", "K", "K_PART"),
        ),
    )


CASES = [
    case(name, dtype, group, plan, offsets)
    for dtype, group, offsets in (
        ("bfloat16", 128, None),
        ("float16", 32, None),
        ("float32", 128, None),
        ("bfloat16", 32, "float32"),
        ("bfloat16", 32, "float16"),
        ("float16", 32, "float32"),
        ("float32", 32, "float32"),
    )
    for name, plan in plans(
        lambda rows, depth, dtype=dtype, group=group: tiles_for(rows, DTYPES[dtype], depth, group)
    )
]
