"""Embeddings as wide as those of Llama, Qwen3, SmolLM and Gemma 3."""

from services.generator.backend.gpu.triton.elementwise.elementwise_tiles import (
    NUM_WARPS,
    elementwise_tile,
)
from services.generator.backend.gpu.triton.elementwise.embedding import embedding_kernel
from tests.generator.backend.gpu.triton.cases.compile_case import POINTERS, CompileCase


def case(dtype: str, width: int, ids: str) -> CompileCase:
    rows, columns = elementwise_tile(width)
    return CompileCase(
        f"embedding {dtype} {width} {ids}",
        embedding_kernel,
        {
            "p_ids": ids,
            **dict.fromkeys(("p_table", "p_out"), POINTERS[dtype]),
            **dict.fromkeys(("s_table", "T", "V"), "i32"),
            "scale": "fp32",
        },
        {"N": width, "BT": rows, "BN": columns},
        num_warps=NUM_WARPS,
        aligned=("p_ids", "p_table", "p_out", "s_table"),
    )


CASES = [
    *(case("bfloat16", width, "*i64") for width in (4096, 2560, 1152, 576)),
    case("float16", 4096, "*i32"),
    case("float32", 576, "*i64"),
]
