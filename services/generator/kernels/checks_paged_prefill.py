"""What attention over the paged cache demands of its arguments."""

from __future__ import annotations

import torch

from services.generator.kernels.checks import (
    KernelError,
    require_capability,
    require_contiguous,
    require_dtype,
    require_rows,
    require_shape,
)

DTYPES = frozenset({torch.float32, torch.float16, torch.bfloat16})
SCALED_DTYPES = frozenset({torch.float8_e4m3fn, torch.int8})
HEAD_SIZES = (64, 80, 96, 128, 256)


def require_queries(
    q: torch.Tensor, block_table: torch.Tensor, query_starts: torch.Tensor, lengths: torch.Tensor
) -> None:
    """Raise KernelError unless queries, and where sequences lie, are as the kernel reads them."""
    require_shape("q", q, None, None, None)
    require_dtype("q", q, DTYPES)
    require_rows("q", q)
    if q.shape[2] not in HEAD_SIZES:
        raise KernelError("q", f"has heads of {q.shape[2]}, not one of: {HEAD_SIZES}")
    require_shape("lengths", lengths, None)
    require_vector("lengths", lengths, len(lengths), torch.int32)
    require_vector("query_starts", query_starts, len(lengths) + 1, torch.int32)
    require_shape("block_table", block_table, len(lengths), None)
    require_dtype("block_table", block_table, {torch.int32})
    require_rows("block_table", block_table)


def require_cache(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    k_scale: torch.Tensor | None,
    v_scale: torch.Tensor | None,
) -> None:
    """Raise KernelError unless these queries can be asked of this cache."""
    require_shape("k_cache", k_cache, None, None, None, q.shape[2])
    require_shape("v_cache", v_cache, *k_cache.shape)
    require_dtype("k_cache", k_cache, {q.dtype, *SCALED_DTYPES})
    require_dtype("v_cache", v_cache, {k_cache.dtype})
    require_rows("k_cache", k_cache)
    require_rows("v_cache", v_cache)
    if k_cache.dtype == torch.float8_e4m3fn:
        require_capability("k_cache", q.device, (9, 0))
    heads, kv_heads = q.shape[1], k_cache.shape[2]
    if not heads or not kv_heads or heads % kv_heads:
        raise KernelError("q", f"has {heads} heads, no multiple of the {kv_heads} of k_cache")
    for name, scales in (("k_scale", k_scale), ("v_scale", v_scale)):
        if (scales is not None) != (k_cache.dtype in SCALED_DTYPES):
            verb = "is needed for" if scales is None else "is not for"
            raise KernelError(name, f"{verb} a cache of {k_cache.dtype}")
        if scales is not None:
            require_vector(name, scales, kv_heads, torch.float32)


def require_options(
    q: torch.Tensor, window: int | None, soft_cap: float | None, sinks: torch.Tensor | None
) -> None:
    """Raise KernelError unless window, cap and sinks make sense."""
    if window is not None and window < 1:
        raise KernelError("window", f"is {window}, less than the token itself")
    if soft_cap is not None and not soft_cap > 0:
        raise KernelError("soft_cap", f"is {soft_cap}, not above 0")
    if sinks is not None:
        require_vector("sinks", sinks, q.shape[1], torch.float32)


def require_vector(name: str, vector: torch.Tensor, size: int, dtype: torch.dtype) -> None:
    """Raise KernelError unless it is a contiguous vector of this size and dtype."""
    require_shape(name, vector, size)
    require_dtype(name, vector, {dtype})
    require_contiguous(name, vector)
