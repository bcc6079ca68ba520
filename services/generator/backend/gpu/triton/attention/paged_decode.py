"""Paged attention for decode (arXiv:2309.06180), split along the tokens: flash-decoding.

The splits are those of https://pytorch.org/blog/flash-decoding; a program takes the query heads
that share a KV head.
"""

from functools import cache

import torch
import triton
import triton.language as tl

from services.generator.backend.gpu.triton.attention.checks import (
    check_queries,
    check_scores,
    check_tables,
)
from services.generator.backend.gpu.triton.attention.launch import Launch, head_tile
from services.generator.backend.gpu.triton.attention.paged_slots import paged_slots
from services.generator.backend.gpu.triton.attention.softmax import (
    LOG2_E,
    LOWEST,
    online_softmax,
    score_scales,
    soft_capped,
)

TILE_BYTES = 16384  # of keys, and as many of values
MAX_SPLITS = 64  # the reduction holds them in one tile
PROGRAMS_PER_SM = 4
MAX_SPLIT_TILES = 64  # with more to a split, a batch would wait for its one long sequence
MIN_SPLIT_TILES = 16  # where fewer splits do: a split's sums are a hundredth of what it reads


@triton.jit
def split_range(length, window, splits, busy, BN: tl.constexpr, MIN_TILES: tl.constexpr):
    """Return the first token seen, where the first split starts, and the tokens of a split."""
    first = tl.maximum(length - window, 0)
    start = first // BN * BN
    tiles = tl.cdiv(length - start, BN)
    used = tl.minimum(splits, tl.maximum(busy, tl.cdiv(tiles, MIN_TILES)))
    return first, start, tl.cdiv(tiles, used) * BN


@triton.jit(do_not_specialize=["s_table", "window", "busy"])
def paged_decode_split_kernel(
    p_q,  # [S, H, D], s_q_token and s_q_head apart
    p_k,  # [num_blocks, BLOCK_SIZE, KVH, D], s_k_block, s_k_token and s_k_head apart
    p_v,  # [num_blocks, BLOCK_SIZE, KVH, D], s_v_block, s_v_token and s_v_head apart
    p_table,  # [S, max_blocks], rows s_table apart
    p_lengths,  # [S]
    p_k_scale,  # [KVH], or q where nothing is quantised
    p_v_scale,  # [KVH], or q where nothing is quantised
    p_partial,  # [S, H, splits, D] contiguous
    p_lse,  # [S, H, splits] contiguous, log2 of a split's sum
    s_q_token,
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
    HAS_SCALES: tl.constexpr,
    HAS_SOFT_CAP: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    D: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
    MIN_TILES: tl.constexpr,
):
    i_kv, i_s = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    length = tl.load(p_lengths + i_s)
    first, start, size = split_range(length, window, tl.num_programs(1), busy, BN, MIN_TILES)
    i_from = start + tl.program_id(1) * size
    i_to = tl.minimum(i_from + size, length)
    if i_from >= i_to:
        return
    o_m, o_d = tl.arange(0, BM), tl.arange(0, BD)
    m_m, m_d = o_m < GROUP, o_d < D
    m_md = m_m[:, None] & m_d[None, :]
    o_h = i_kv * GROUP + o_m
    # [BM, BD]
    o_q = (i_s * s_q_token + o_h * s_q_head)[:, None] + o_d[None, :]
    b_q = tl.load(p_q + o_q, mask=m_md, other=0.0)
    p_k, p_v = p_k + i_kv * s_k_head, p_v + i_kv * s_v_head
    if HAS_SCALES:
        scale *= tl.load(p_k_scale + i_kv)
    scale, cap_scale = score_scales(scale, soft_cap, HAS_SOFT_CAP)
    b_max = tl.full([BM], LOWEST, tl.float32)
    b_sum = tl.zeros([BM], tl.float32)
    b_acc = tl.zeros([BM, BD], tl.float32)
    for i_n in range(i_from, i_to, BN):
        o_n = i_n + tl.arange(0, BN)
        # masked lest what was never written meet a weight of zero
        m_n = (o_n >= first) & (o_n < i_to)
        m_nd = m_n[:, None] & m_d[None, :]
        # [BN]
        b_block, o_token = paged_slots(p_table + i_s * s_table, i_n, m_n, BN, BLOCK_SIZE)
        # [BN, BD], by pointers to the tokens: offsets of the whole tile would take more registers
        p_key = p_k + (b_block * s_k_block + o_token * s_k_token)[:, None]
        b_k = tl.load(p_key + o_d[None, :], mask=m_nd, other=0.0).to(b_q.dtype)
        p_value = p_v + (b_block * s_v_block + o_token * s_v_token)[:, None]
        b_v = tl.load(p_value + o_d[None, :], mask=m_nd, other=0.0).to(b_q.dtype)
        # [BM, BN]
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision="ieee")
        if HAS_SOFT_CAP:
            b_s = soft_capped(b_s, cap_scale)
        b_s = tl.where(m_n[None, :], b_s, float("-inf"))
        b_p, b_shrink, b_max, b_sum = online_softmax(b_s, b_max, b_sum, scale)
        b_acc = b_acc * b_shrink[:, None]
        b_acc = tl.dot(b_p.to(b_q.dtype), b_v, b_acc, input_precision="ieee")
    b_acc /= b_sum[:, None]
    if HAS_SCALES:
        b_acc *= tl.load(p_v_scale + i_kv)
    o_row = i_s * tl.num_programs(0) * GROUP + o_h
    o_row = o_row * tl.num_programs(1) + tl.program_id(1)
    tl.store(p_partial + o_row[:, None] * D + o_d[None, :], b_acc, mask=m_md)
    tl.store(p_lse + o_row, b_max + tl.log2(b_sum), mask=m_m)


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
    SPLITS: tl.constexpr,
    D: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
    MIN_TILES: tl.constexpr,
):
    i_h, i_s = tl.program_id(0), tl.program_id(1).to(tl.int64)
    i_row = i_s * tl.num_programs(0) + i_h
    length = tl.load(p_lengths + i_s)
    _, start, size = split_range(length, window, SPLITS, busy, BN, MIN_TILES)
    o_split, o_d = tl.arange(0, SPLITS), tl.arange(0, BD)
    # splits without a token wrote nothing
    m_split, m_d = start + o_split * size < length, o_d < D
    # [SPLITS]
    b_lse = tl.load(p_lse + i_row * SPLITS + o_split, mask=m_split, other=LOWEST)
    # [SPLITS, BD]
    p_row = p_partial + ((i_row * SPLITS + o_split) * D)[:, None]
    m_partial = m_split[:, None] & m_d[None, :]
    b_partial = tl.load(p_row + o_d[None, :], mask=m_partial, other=0.0)
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


def decode_launch(query_bytes: int, head_dim: int, group: int) -> Launch:
    """Return the launch for queries this wide, where `group` of them share a KV head."""
    rows = max(16, triton.next_power_of_2(group))
    width = head_tile(head_dim)
    keys = min(64, TILE_BYTES // (width * query_bytes))
    is_large = rows * width > 4096
    if query_bytes == 4:
        # no tensor cores: operands lie whole in registers, and loads ahead would spill them
        return Launch(rows, keys, 16 if is_large else 8, 1)
    return Launch(rows, keys, 8 if is_large else 4, 3)


def reduce_warps(elements: int) -> int:
    """Return the warps for a reduction's tile: 32 elements to a thread, within 1 to 16."""
    return min(16, max(1, elements // 1024))


def busy_splits(sequences: int, kv_heads: int, multiprocessors: int) -> int:
    """Return how many splits of each sequence keep the multiprocessors busy."""
    return max(PROGRAMS_PER_SM * multiprocessors // (sequences * kv_heads), 1)


def num_splits(busy: int, tiles: int) -> int:
    """Return how many splits the tokens have at most, a power of two.

    As many as `busy`, or more of `tiles`, those of the longest sequence that the block table can
    hold: the host does not know the lengths, by which programs use as many as they need.
    """
    wanted = max(busy, tiles // MAX_SPLIT_TILES)
    return min(MAX_SPLITS, 1 << (wanted.bit_length() - 1), 1 << max(tiles - 1, 0).bit_length())


@cache
def num_multiprocessors(device: torch.device) -> int:
    """Return those of a GPU; the interpreter splits as an H100 does."""
    if device.type != "cuda":
        return 132
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


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
    launch = decode_launch(q.element_size(), size, heads // kv_heads)
    tiles = triton.cdiv(window, launch.keys) + (window < capacity)
    busy = busy_splits(sequences, kv_heads, num_multiprocessors(q.device))
    splits = num_splits(busy, tiles)
    partial = q.new_empty((sequences, heads, splits, size), dtype=torch.float32)
    lse = q.new_empty((sequences, heads, splits), dtype=torch.float32)
    out = q.new_empty(q.shape)
    tile = {"D": size, "BN": launch.keys, "BD": head_tile(size), "MIN_TILES": MIN_SPLIT_TILES}
    paged_decode_split_kernel[(kv_heads, splits, sequences)](
        *(q, *caches, block_table, lengths, *(scales or (q, q)), partial, lse),
        *(*q.stride()[:2], block_table.stride(0), busy, window, scale, soft_cap or 0.0),
        *(*caches[0].stride()[:3], *caches[1].stride()[:3]),
        HAS_SCALES=scales is not None,
        HAS_SOFT_CAP=soft_cap is not None,
        GROUP=heads // kv_heads,
        BLOCK_SIZE=block_size,
        BM=launch.rows,
        **tile,
        **launch.options,
    )
    paged_decode_reduce_kernel[(heads, sequences)](
        *(partial, lse, lengths, lse if sinks is None else sinks, out, busy, window),
        HAS_SINKS=sinks is not None,
        SPLITS=splits,
        **tile,
        num_warps=reduce_warps(splits * tile["BD"]),
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
    scales = check_queries(q, k_cache, v_cache, k_scale, v_scale)
    check_tables(block_table, lengths, len(q))
    check_scores(q.shape[1], scale, window, soft_cap, sinks)
    if not q.numel():
        return q.new_empty(q.shape)
    caches = (k_cache, v_cache)
    return _launch(q, caches, block_table, lengths, scale, window, soft_cap, sinks, scales)
