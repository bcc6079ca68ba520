"""Attention over a paged cache, in torch and float64: what the kernels are held against."""

import torch


def paged_prefill(
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
    """Return [T, H, D] in float64; the queries of a sequence are its last tokens.

    `q` is [T, H, D], its rows of sequence s from `query_starts[s]` to `query_starts[s + 1]`; caches
    are [num_blocks, block_size, KVH, D], `block_table` [S, max_blocks], `lengths` [S] with the
    queries included. A query sees the tokens up to itself, `window` of them at most. Rows that see
    nothing, or belong to no sequence, are zeros.
    """
    out = torch.zeros(q.shape, dtype=torch.float64, device=q.device)
    starts = query_starts.tolist()
    for i, length in enumerate(lengths.tolist()):
        rows = slice(starts[i], starts[i + 1])
        keys = cached_tokens(k_cache, block_table[i], length, k_scale)
        values = cached_tokens(v_cache, block_table[i], length, v_scale)
        count = starts[i + 1] - starts[i]
        at = torch.arange(length - count, length, device=q.device)[:, None]
        tokens = torch.arange(length, device=q.device)[None, :]
        sees = (tokens <= at) & (tokens > at - (window or length + 1))
        out[rows] = attention(q[rows].double(), keys, values, sees, scale, soft_cap, sinks)
    return out


def paged_decode(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_table: torch.Tensor,
    lengths: torch.Tensor,
    scale: float,
    window: int | None = None,
    soft_cap: float | None = None,
    sinks: torch.Tensor | None = None,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return `paged_prefill` of one query per sequence, its last token."""
    query_starts = torch.arange(len(q) + 1)
    return paged_prefill(
        *(q, k_cache, v_cache, block_table, query_starts, lengths, scale),
        *(window, soft_cap, sinks, k_scale, v_scale),
    )


def cached_tokens(
    cache: torch.Tensor, blocks: torch.Tensor, length: int, scale: torch.Tensor | None
) -> torch.Tensor:
    """Return the first `length` tokens of a row of the block table, [length, KVH, D] in float64."""
    block_size = cache.shape[1]
    used = blocks[: -(-length // block_size)].tolist()
    parts = [cache[block].double() for block in used]
    empty = torch.zeros(0, *cache.shape[2:], dtype=torch.float64, device=cache.device)
    tokens = torch.cat([empty, *parts])[:length]
    return tokens if scale is None else tokens * scale.double()[:, None]


def attention(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    sees: torch.Tensor,
    scale: float,
    soft_cap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Return softmax(scores) @ values, [Q, H, D]; keys and values are [N, KVH, D], `sees` [Q, N].

    A sink is a further score of its head that has no value.
    """
    group = q.shape[1] // keys.shape[1]
    scores = torch.einsum("qhd,nhd->qhn", q, keys.repeat_interleave(group, 1)) * scale
    if soft_cap is not None:
        scores = soft_cap * torch.tanh(scores / soft_cap)
    scores = scores.masked_fill(~sees[:, None, :], -torch.inf)
    sink = torch.full(q.shape[1:2], -torch.inf, device=q.device) if sinks is None else sinks
    column = sink.double()[None, :, None].expand(*q.shape[:2], 1)
    largest = torch.cat([scores, column], -1).amax(-1, keepdim=True).clamp(min=-1e300)
    weights = torch.exp(scores - largest)
    total = weights.sum(-1, keepdim=True) + torch.exp(column - largest)
    weights = torch.where(total > 0, weights / total, 0.0)
    # what nobody sees may hold anything, and zero times NaN is NaN
    values = values.masked_fill(~sees.any(0)[:, None, None], 0.0)
    return torch.einsum("qhn,nhd->qhd", weights, values.repeat_interleave(group, 1))
