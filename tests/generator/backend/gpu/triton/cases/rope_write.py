"""Rotations for the heads of models served, into caches of their dtype, float8 and int8."""

from services.generator.backend.gpu.triton.attention.rope_write import (
    NUM_WARPS,
    rope_tile,
    rope_write_kernel,
)
from tests.generator.backend.gpu.triton.cases.compile_case import POINTERS, CompileCase

# query heads, key heads, size of a head, half of what is rotated, with norms
MODELS = {
    "llama": (32, 8, 128, 64, False),
    "smollm": (9, 3, 64, 32, False),
    "qwen3": (40, 8, 128, 64, True),
    "gemma3": (8, 4, 256, 128, True),
    "phi3": (32, 32, 96, 48, False),
    "phi2": (32, 32, 80, 16, False),
    "phi4-mini": (24, 8, 128, 48, False),
    "stablelm": (32, 32, 64, 8, False),
    "glm4.5": (96, 8, 128, 32, True),
    "large": (16, 4, 512, 64, True),
}
CACHES = {"": 0.0, "*fp8e4nv": 448.0, "*i8": 127.0}
TENSORS = ("p_qkv", "p_cos", "p_sin", "p_slots", "p_k", "p_v", "p_norm", "p_k_scale", "p_v_scale")
STRIDES = ("s_qkv", "s_cos", "s_sin")


def case(model: str, dtype: str, cache: str) -> CompileCase:
    heads, kv_heads, head_dim, half, has_norm = MODELS[model]
    return CompileCase(
        f"rope_write {model} {dtype} {cache or 'same'}",
        rope_write_kernel,
        {
            **dict.fromkeys(TENSORS, "*fp32"),
            **dict.fromkeys(STRIDES, "i32"),
            "p_qkv": POINTERS[dtype],
            "p_slots": "*i64",
            "p_k": cache or POINTERS[dtype],
            "p_v": cache or POINTERS[dtype],
            "T": "i32",
            "eps": "fp32",
        },
        {
            # in blocks of 16, values beside their keys
            **dict.fromkeys(("s_k_block", "s_v_block"), 16 * 2 * kv_heads * head_dim),
            **dict.fromkeys(("s_k_token", "s_v_token"), 2 * kv_heads * head_dim),
            **dict.fromkeys(("s_k_head", "s_v_head"), head_dim),
            "H": heads,
            "KVH": kv_heads,
            "D": head_dim,
            "R": half,
            "BLOCK_SIZE": 16,
            "HAS_NORM": has_norm,
            "MAX": CACHES[cache],
            **rope_tile(head_dim, half),
        },
        num_warps=NUM_WARPS,
        least=(9, 0) if cache == "*fp8e4nv" else (8, 0),
        # a row of eight angles is shorter than 16
        aligned=(*TENSORS, *(name for name in STRIDES if half % 16 == 0 or name == "s_qkv")),
    )


CASES = [
    *(case(model, "bfloat16", "") for model in MODELS),
    *(case(model, "bfloat16", "*fp8e4nv") for model in ("llama", "qwen3", "gemma3", "phi2")),
    *(case(model, "bfloat16", "*i8") for model in ("smollm", "llama", "qwen3", "gemma3")),
    case("qwen3", "float16", ""),
    case("llama", "float32", ""),
]
