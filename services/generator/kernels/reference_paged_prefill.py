"""What attention over the paged cache computes, one sequence after another in float64."""

from __future__ import annotations

import torch


def paged_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_table: torch.Tensor,
    query_starts: torch.Tensor,
    lengths: torch.Tensor,
    scale: float,
    window: int | None = None,
    soft_cap: float | None = None,
    sinks: torch.Tensor | None = None,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return [T, H, D] in float64; arguments as of the kernel, padding rows come out as zeros."""
    out = torch.zeros(q.shape, dtype=torch.float64, device=q.device)
    starts = query_starts.tolist()
    for i_s, length in enumerate(lengths.tolist()):
        rows = slice(starts[i_s], starts[i_s + 1])
        if rows.start < rows.stop:
            k = gathered(k_cache, block_table[i_s], length, k_scale)
            v = gathered(v_cache, block_table[i_s], length, v_scale)
            out[rows] = attention(q[rows].double(), k, v, scale, window, soft_cap, sinks)
    return out


def gathered(
    cache: torch.Tensor, blocks: torch.Tensor, length: int, scale: torch.Tensor | None
) -> torch.Tensor:
    """Return one sequence's keys or values, [length, KVH, D] in float64."""
    positions = torch.arange(length, device=cache.device)
    size = cache.shape[1]
    stored = cache[blocks[positions // size].long(), positions % size].double()
    return stored if scale is None else stored * scale.double()[:, None]


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float,
    window: int | None,
    soft_cap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Return the attention of `q` [Q, H, D], the last Q tokens of `k` and `v` [L, KVH, D]."""
    queries, heads, _ = q.shape
    length, kv_heads, _ = k.shape
    k = k.repeat_interleave(heads // kv_heads, dim=1)
    v = v.repeat_interleave(heads // kv_heads, dim=1)
    scores = torch.einsum("qhd,khd->hqk", q, k) * scale
    if soft_cap is not None:
        scores = soft_cap * torch.tanh(scores / soft_cap)
    seen_from = torch.arange(length - queries, length, device=q.device)[:, None]
    position = torch.arange(length, device=q.device)[None, :]
    seen = position <= seen_from
    if window is not None:
        seen &= position > seen_from - window
    scores = scores.masked_fill(~seen, float("-inf"))
    if sinks is not None:
        column = sinks.double()[:, None, None].expand(heads, queries, 1)
        scores = torch.cat([scores, column], dim=-1)
    weights = scores.softmax(-1)[..., :length]
    # what nobody sees may be NaN
    unseen = ~seen.any(0)
    return torch.einsum("hqk,khd->qhd", weights, v.masked_fill(unseen[:, None, None], 0.0))
