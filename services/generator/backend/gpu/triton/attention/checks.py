"""What the attention kernels demand of their arguments."""

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
CACHE_LIMITS = {torch.float8_e4m3fn: 448.0, torch.int8: 127.0}
MAX_HEAD_DIM = 256
MAX_GROUP = 64


def check_queries(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    k_scale: torch.Tensor | None,
    v_scale: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return both scales of a quantised cache, which queries [rows, H, D] are to go with.

    Raises KernelError.
    """
    require_shape("q", q, None, None, None)
    require_dtype("q", q, DTYPES)
    require_rows("q", q)
    heads, head_dim = q.shape[1:]
    check_caches(k_cache, v_cache, q.dtype, None, head_dim)
    kv_heads = k_cache.shape[2]
    if not kv_heads or heads % kv_heads or heads // kv_heads > MAX_GROUP:
        raise KernelError("q", f"has {heads} heads over {kv_heads}, at most {MAX_GROUP} to each")
    if head_dim > MAX_HEAD_DIM:
        raise KernelError("q", f"has heads of {head_dim}, at most {MAX_HEAD_DIM} are taken")
    return checked_scales(k_cache, k_scale, v_scale)


def check_caches(
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    dtype: torch.dtype,
    kv_heads: int | None,
    head_dim: int,
) -> None:
    """Raise KernelError unless both caches hold such heads in this dtype, or in one of 8 bits."""
    require_shape("k_cache", k_cache, None, None, kv_heads, head_dim)
    require_shape("v_cache", v_cache, *k_cache.shape)
    require_dtype("k_cache", k_cache, {dtype, *CACHE_LIMITS})
    require_dtype("v_cache", v_cache, {k_cache.dtype})
    require_rows("k_cache", k_cache)
    require_rows("v_cache", v_cache)
    if k_cache.dtype == torch.float8_e4m3fn:
        require_capability("k_cache in float8_e4m3fn", k_cache.device, (9, 0))


def checked_scales(
    k_cache: torch.Tensor, k_scale: torch.Tensor | None, v_scale: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return both scales of a quantised cache; raise KernelError if missing, or given for none."""
    is_quantised = k_cache.dtype in CACHE_LIMITS
    for name, scale in (("k_scale", k_scale), ("v_scale", v_scale)):
        if (scale is not None) != is_quantised:
            problem = "is needed by" if is_quantised else "is given for"
            raise KernelError(name, f"{problem} a cache of {k_cache.dtype}")
        if scale is not None:
            require_floats(name, scale, k_cache.shape[2])
    return None if k_scale is None or v_scale is None else (k_scale, v_scale)


def check_tables(
    block_table: torch.Tensor, lengths: torch.Tensor, sequences: int | None = None
) -> None:
    """Raise KernelError unless these are a row of blocks and a length for each sequence."""
    require_shape("lengths", lengths, sequences)
    require_shape("block_table", block_table, len(lengths), None)
    require_dtype("block_table", block_table, {torch.int32})
    require_dtype("lengths", lengths, {torch.int32})
    require_rows("block_table", block_table)
    require_contiguous("lengths", lengths)


def check_scores(
    heads: int,
    scale: float,
    window: int | None,
    soft_cap: float | None,
    sinks: torch.Tensor | None,
) -> None:
    """Raise KernelError unless a scale, a window, a cap and the heads' sinks are such."""
    if not scale > 0:
        raise KernelError("scale", f"is {scale}, not positive")
    if window is not None and window < 1:
        raise KernelError("window", f"is {window}, and a query sees itself at least")
    if soft_cap is not None and not soft_cap > 0:
        raise KernelError("soft_cap", f"is {soft_cap}, not positive")
    if sinks is not None:
        require_floats("sinks", sinks, heads)


def require_floats(name: str, tensor: torch.Tensor, *shape: int) -> None:
    """Raise KernelError unless this is contiguous float32 of this shape."""
    require_shape(name, tensor, *shape)
    require_dtype(name, tensor, {torch.float32})
    require_contiguous(name, tensor)
