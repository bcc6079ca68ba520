"""What `rope_write` demands of its arguments."""

from __future__ import annotations

import torch

from services.generator.backend.gpu.triton.checks import (
    KernelError,
    require_capability,
    require_contiguous,
    require_dtype,
    require_rows,
    require_shape,
)

DTYPES = frozenset({torch.float32, torch.float16, torch.bfloat16})
# the largest that a quantised cache holds; int8 is symmetric, -128 stays unused
LARGEST = {torch.float8_e4m3fn: 448.0, torch.int8: 127.0}
MAX_HEAD_DIM = 512


def check_places(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    slots: torch.Tensor,
    heads: int,
    head_dim: int,
) -> None:
    """Raise KernelError unless there are rows of `heads` heads, and angles and slots for them."""
    if not 0 < head_dim <= MAX_HEAD_DIM:
        raise KernelError("head_dim", f"is {head_dim}, not one of 1 to {MAX_HEAD_DIM}")
    require_shape("qkv", qkv, None, heads * head_dim)
    require_dtype("qkv", qkv, DTYPES)
    require_rows("qkv", qkv)
    require_shape("cos", cos, len(qkv), None)
    if not 0 < 2 * cos.shape[1] <= head_dim:
        raise KernelError("cos", f"rotates {2 * cos.shape[1]} of a head's {head_dim} dimensions")
    for name, angles in (("cos", cos), ("sin", sin)):
        require_shape(name, angles, *cos.shape)
        require_dtype(name, angles, {torch.float32})
        require_rows(name, angles)
    require_shape("slots", slots, len(qkv))
    require_dtype("slots", slots, {torch.int64})
    require_contiguous("slots", slots)


def check_caches(
    qkv: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    num_kv_heads: int,
    head_dim: int,
) -> None:
    """Raise KernelError unless both caches hold such heads, in a dtype that this device has."""
    require_shape("k_cache", k_cache, None, None, num_kv_heads, head_dim)
    require_shape("v_cache", v_cache, *k_cache.shape)
    require_dtype("k_cache", k_cache, {qkv.dtype, *LARGEST})
    require_dtype("v_cache", v_cache, {k_cache.dtype})
    require_rows("k_cache", k_cache)
    require_rows("v_cache", v_cache)
    if k_cache.dtype == torch.float8_e4m3fn:
        require_capability("k_cache", k_cache.device, (9, 0))


def check_floats(name: str, tensor: torch.Tensor, *shape: int) -> None:
    """Raise KernelError unless this is contiguous float32 of this shape."""
    require_shape(name, tensor, *shape)
    require_dtype(name, tensor, {torch.float32})
    require_contiguous(name, tensor)


def checked_scales(
    cache: torch.Tensor, k_scale: torch.Tensor | None, v_scale: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return both scales of a quantised cache; raise KernelError if missing, or given for none."""
    is_quantised = cache.dtype in LARGEST
    for name, scale in (("k_scale", k_scale), ("v_scale", v_scale)):
        if (scale is not None) != is_quantised:
            problem = "is needed by" if is_quantised else "is given for"
            raise KernelError(name, f"{problem} a cache of {cache.dtype}")
        if scale is not None:
            check_floats(name, scale, cache.shape[2])
    return None if k_scale is None or v_scale is None else (k_scale, v_scale)
