"""Decode attention over a paged cache, split along its tokens: flash-decoding.

Pages are those of arXiv:2309.06180, the online softmax that of arXiv:1805.02867, the splits those
of https://pytorch.org/blog/flash-decoding.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from services.generator.backend.gpu.triton.attention.checks import (
    check_cache,
    check_scores,
    check_tables,
)
from services.generator.backend.gpu.triton.attention.paged_decode_launch import (
    FEWEST_TILES,
    busy_splits,
    multiprocessors_of,
    reduce_warps,
    splits_of,
    tile_of,
)
from services.generator.backend.gpu.triton.attention.paged_slots import places

LOG2_E = tl.constexpr(math.log2(math.e))
NOTHING = tl.constexpr(-1e30)  # log2 of no weight, finite lest infinities be subtracted


@triton.jit
def split_range(length, window, splits, busy, BN: tl.constexpr, FEWEST: tl.constexpr):
    """Return the first token seen, where the first split starts, and the tokens of a split."""
    first = tl.maximum(length - window, 0)
    start = first // BN * BN
    tiles = tl.cdiv(length - start, BN)
    used = tl.minimum(splits, tl.maximum(busy, tl.cdiv(tiles, FEWEST)))
    return first, start, tl.cdiv(tiles, used) * BN


@triton.jit
def capped(b_s, soft_cap):
    """Return soft_cap * tanh(b_s / 2 ln 2), by an exponential that cannot overflow."""
    b_e = tl.exp2(-tl.abs(b_s))
    return tl.where(b_s < 0, -soft_cap, soft_cap) * ((1 - b_e) / (1 + b_e))


@triton.jit(do_not_specialize=["s_table", "window", "busy"])
def paged_decode_split_kernel(
    p_q,  # [S, H, D]
    p_k,  # [num_blocks, BLOCK_SIZE, KVH, D]
    p_v,  # [num_blocks, BLOCK_SIZE, KVH, D]
    p_table,  # [S, max_blocks]
    p_lengths,  # [S]
    p_k_scale,  # [KVH], or q where nothing is quantised
    p_v_scale,  # [KVH], or q where nothing is quantised
    p_partial,  # [S, H, splits, D] contiguous
    p_lse,  # [S, H, splits] contiguous, log2 of a split's sum
    s_q_seq,
    s_q_head,
    s_table,
    busy,
    window,
    scale,
    soft_cap,
    # of the cache, and with it of the model: known to the compiler, they cost no multiplications
    s_k_block: tl.constexpr,
    s_k_token: tl.constexpr,
    s_k_head: tl.constexpr,
    s_v_block: tl.constexpr,
    s_v_token: tl.constexpr,
    s_v_head: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HAS_SOFT_CAP: tl.constexpr,
    HAS_SCALES: tl.constexpr,
    BH: tl.constexpr,
    BD: tl.constexpr,
    BN: tl.constexpr,
    FEWEST: tl.constexpr,
):
    i_kv, i_s = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    length = tl.load(p_lengths + i_s)
    first, start, size = split_range(length, window, tl.num_programs(1), busy, BN, FEWEST)
    begin = start + tl.program_id(1) * size
    end = tl.minimum(begin + size, length)
    if begin >= end:
        return
    dtype: tl.constexpr = p_q.dtype.element_ty
    o_h, o_d = tl.arange(0, BH), tl.arange(0, BD)[None, :]
    m_h, m_d = o_h < GROUP, o_d < D
    o_head = i_kv * GROUP + o_h
    # [BH, BD]
    p_query = p_q + (i_s * s_q_seq + o_head * s_q_head)[:, None]
    b_q = tl.load(p_query + o_d, mask=m_h[:, None] & m_d, other=0.0)
    p_k, p_v = p_k + i_kv * s_k_head, p_v + i_kv * s_v_head
    if HAS_SCALES:
        scale *= tl.load(p_k_scale + i_kv)
    b_max = tl.full((BH,), float("-inf"), tl.float32)
    b_sum = tl.zeros((BH,), tl.float32)
    b_acc = tl.zeros((BH, BD), tl.float32)
    for i_n in range(begin, end, BN):
        o_n = i_n + tl.arange(0, BN)
        m_n = (o_n >= first) & (o_n < end)
        o_block, o_token = places(i_n, BN, BLOCK_SIZE)
        p_block = p_table + i_s * s_table + o_block
        b_block = tl.load(p_block, mask=m_n, other=0).to(tl.int64)  # [BN]
        o_token = o_token.to(tl.int64)
        # [BN, BD], masked lest what was never written meet a weight of zero
        m_kv = m_n[:, None] & m_d
        p_key = p_k + (b_block * s_k_block + o_token * s_k_token)[:, None]
        b_k = tl.load(p_key + o_d, mask=m_kv, other=0.0).to(dtype)
        p_value = p_v + (b_block * s_v_block + o_token * s_v_token)[:, None]
        b_v = tl.load(p_value + o_d, mask=m_kv, other=0.0).to(dtype)
        # [BH, BN], of base two
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision="ieee") * scale
        if HAS_SOFT_CAP:
            b_s = capped(b_s, soft_cap)
        b_s = tl.where(m_n[None, :], b_s, float("-inf"))
        b_larger = tl.maximum(b_max, tl.max(b_s, 1))
        b_p = tl.exp2(b_s - b_larger[:, None])
        b_shrink = tl.exp2(b_max - b_larger)
        b_sum = b_sum * b_shrink + tl.sum(b_p, 1)
        b_acc = tl.dot(b_p.to(dtype), b_v, b_acc * b_shrink[:, None], input_precision="ieee")
        b_max = b_larger
    b_acc /= b_sum[:, None]
    if HAS_SCALES:
        b_acc *= tl.load(p_v_scale + i_kv)
    o_row = i_s * tl.num_programs(0) * GROUP + o_head
    o_row = o_row * tl.num_programs(1) + tl.program_id(1)
    tl.store(p_partial + o_row[:, None] * D + o_d, b_acc, mask=m_h[:, None] & m_d)
    tl.store(p_lse + o_row, b_max + tl.log2(b_sum), mask=m_h)


@triton.jit(do_not_specialize=["window", "busy"])
def paged_decode_reduce_kernel(
    p_partial,  # [S, H, SPLITS, D] contiguous
    p_lse,  # [S, H, SPLITS] contiguous
    p_lengths,  # [S]
    p_sinks,  # [H], or the sums where there are none
    p_out,  # [S, H, D] contiguous
    busy,
    window,
    HAS_SINKS: tl.constexpr,
    D: tl.constexpr,
    SPLITS: tl.constexpr,
    BD: tl.constexpr,
    BN: tl.constexpr,
    FEWEST: tl.constexpr,
):
    i_h, i_s = tl.program_id(0), tl.program_id(1).to(tl.int64)
    i_row = i_s * tl.num_programs(0) + i_h
    length = tl.load(p_lengths + i_s)
    _, start, size = split_range(length, window, SPLITS, busy, BN, FEWEST)
    o_n, o_d = tl.arange(0, SPLITS), tl.arange(0, BD)
    # splits without a token wrote nothing
    m_n, m_d = start + o_n * size < length, o_d < D
    # [SPLITS]
    b_lse = tl.load(p_lse + i_row * SPLITS + o_n, mask=m_n, other=NOTHING)
    # [SPLITS, BD]
    p_row = p_partial + ((i_row * SPLITS + o_n) * D)[:, None]
    b_partial = tl.load(p_row + o_d[None, :], mask=m_n[:, None] & m_d[None, :], other=0.0)
    b_max = tl.max(b_lse, 0)
    if HAS_SINKS:
        b_sink = tl.load(p_sinks + i_h) * LOG2_E
        b_max = tl.maximum(b_max, b_sink)
    b_weight = tl.exp2(b_lse - b_max)
    b_sum = tl.sum(b_weight, 0)
    if HAS_SINKS:
        b_sum += tl.exp2(b_sink - b_max)
    b_out = tl.sum(b_weight[:, None] * b_partial, 0) / b_sum
    tl.store(p_out + i_row * D + o_d, b_out.to(p_out.dtype.element_ty), mask=m_d)


def _launch(
    q: torch.Tensor,
    caches: tuple[torch.Tensor, torch.Tensor],
    block_table: torch.Tensor,
    lengths: torch.Tensor,
    scale: float,
    window: int | None,
    soft_cap: float | None,
    sinks: torch.Tensor | None,
    scales: tuple[torch.Tensor, torch.Tensor] | None,
) -> torch.Tensor:
    (sequences, heads, size), (_, block_size, kv_heads, _) = q.shape, caches[0].shape
    capacity = block_table.shape[1] * block_size
    window = min(window or capacity, capacity)
    tile = tile_of(q.element_size(), size, heads // kv_heads)
    tiles = triton.cdiv(window, tile.tokens) + (window < capacity)
    busy = busy_splits(sequences, kv_heads, multiprocessors_of(q.device))
    splits = splits_of(busy, tiles)
    partial = q.new_empty((sequences, heads, splits, size), dtype=torch.float32)
    lse = q.new_empty((sequences, heads, splits), dtype=torch.float32)
    out = q.new_empty(q.shape)
    paged_decode_split_kernel[(kv_heads, splits, sequences)](
        *(q, *caches, block_table, lengths, *(scales or (q, q)), partial, lse),
        *(*q.stride()[:2], block_table.stride(0), busy, window),
        # scores of base two; a tanh takes twice its argument
        *(scale * LOG2_E.value * (2 / soft_cap if soft_cap else 1), (soft_cap or 0) * LOG2_E.value),
        *(*caches[0].stride()[:3], *caches[1].stride()[:3]),
        *(heads // kv_heads, size, block_size, soft_cap is not None, scales is not None),
        *(tile.heads, tile.width, tile.tokens, FEWEST_TILES),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
    paged_decode_reduce_kernel[(heads, sequences)](
        *(partial, lse, lengths, lse if sinks is None else sinks, out, busy, window),
        *(sinks is not None, size, splits, tile.width, tile.tokens, FEWEST_TILES),
        num_warps=reduce_warps(splits * tile.width),
    )
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
    """Return the attention of each sequence's last token, [S, H, D] in the queries' dtype.

    `q` is [S, H, D] of float32, float16 or bfloat16. The caches are [num_blocks, block_size, KVH,
    D], strided as they like but for the last dimension; of the queries' dtype, or of int8 or
    float8_e4m3fn (sm_90), whose values are worth `k_scale` and `v_scale`, float32 [KVH].
    `block_table` is int32 [S, max_blocks]; `lengths` int32 [S], in tokens, the query's included
    and no more than the table holds, which nothing here waits to see. One of 0 gives zeros.

    Scores, times a positive `scale`, become `soft_cap * tanh(score / soft_cap)`. A query sees the
    last `window` tokens, its own included. `sinks`, float32 [H], are scores without a value. The
    splits, and with them the rounding, follow from the number of sequences and their lengths.
    Raises KernelError.
    """
    check_cache(q, k_cache, v_cache, k_scale, v_scale)
    check_tables(block_table, lengths, len(q))
    check_scores(q.shape[1], scale, window, soft_cap, sinks)
    if not q.numel():
        return q.new_empty(q.shape)
    scales = None if k_scale is None or v_scale is None else (k_scale, v_scale)
    caches = (k_cache, v_cache)
    return _launch(q, caches, block_table, lengths, scale, window, soft_cap, sinks, scales)
