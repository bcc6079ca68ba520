"""What attention over a paged cache demands of its arguments."""

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
QUANTISED = frozenset({torch.float8_e4m3fn, torch.int8})
MAX_HEAD_SIZE = 256
MAX_GROUP = 64


def check_cache(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    k_scale: torch.Tensor | None,
    v_scale: torch.Tensor | None,
) -> None:
    """Raise KernelError unless queries [rows, H, D], caches and their scales go together."""
    require_shape("q", q, None, None, None)
    require_dtype("q", q, DTYPES)
    require_rows("q", q)
    heads, head_size = q.shape[1:]
    require_shape("k_cache", k_cache, None, None, None, head_size)
    require_shape("v_cache", v_cache, *k_cache.shape)
    require_dtype("k_cache", k_cache, {q.dtype, *QUANTISED})
    require_dtype("v_cache", v_cache, {k_cache.dtype})
    require_rows("k_cache", k_cache)
    require_rows("v_cache", v_cache)
    kv_heads = k_cache.shape[2]
    if not kv_heads or heads % kv_heads or heads // kv_heads > MAX_GROUP:
        raise KernelError("q", f"has {heads} heads over {kv_heads}, at most {MAX_GROUP} to each")
    if head_size > MAX_HEAD_SIZE:
        raise KernelError("q", f"has heads of {head_size}, at most {MAX_HEAD_SIZE} are taken")
    if k_cache.dtype == torch.float8_e4m3fn:
        require_capability("k_cache in float8_e4m3fn", q.device, (9, 0))
    for name, scales in (("k_scale", k_scale), ("v_scale", v_scale)):
        if (scales is not None) != (k_cache.dtype in QUANTISED):
            raise KernelError(name, f"is for quantised caches, and these are {k_cache.dtype}")
        if scales is not None:
            require_per_head(name, scales, kv_heads)


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
        require_per_head("sinks", sinks, heads)


def require_per_head(name: str, tensor: torch.Tensor, heads: int) -> None:
    """Raise KernelError unless there is a float32 for each head."""
    require_shape(name, tensor, heads)
    require_dtype(name, tensor, {torch.float32})
    require_contiguous(name, tensor)
