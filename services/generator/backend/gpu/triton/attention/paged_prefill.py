"""Paged attention (arXiv:2309.06180) for prefill: prompt chunks of any length beside decodes.

Tiles as in FlashAttention-2 (arXiv:2307.08691); a tile's rows are tokens times the query heads that
share keys (arXiv:2511.11581).
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
from services.generator.backend.gpu.triton.checks import (
    KernelError,
    require_contiguous,
    require_dtype,
    require_shape,
)

HEAD_DIMS = (64, 80, 96, 128, 256)


@triton.jit
def find_sequence(i_tile, p_starts, S, BQ: tl.constexpr):
    """Return the last sequence whose tiles begin at or before this one, S for the padding."""
    i_low = 0
    i_high = S + 1
    while i_low + 1 < i_high:
        i_middle = (i_low + i_high) // 2
        if tl.load(p_starts + i_middle) // BQ + i_middle <= i_tile:
            i_low = i_middle
        else:
            i_high = i_middle
    return i_low


@triton.jit
def attend(
    b_acc,  # [BM, BD]
    b_max,  # [BM]
    b_sum,  # [BM]
    b_q,  # [BM, BD]
    o_position,  # [BM]
    p_table,  # [blocks of the sequence]
    p_k,  # [num_blocks, BLOCK_SIZE, D], s_k_block and s_k_token apart
    p_v,  # [num_blocks, BLOCK_SIZE, D], s_v_block and s_v_token apart
    i_from,
    i_to,
    first,
    end,
    scale,
    cap_scale,
    window,
    IS_MASKED: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_SOFT_CAP: tl.constexpr,
    s_k_block: tl.constexpr,
    s_k_token: tl.constexpr,
    s_v_block: tl.constexpr,
    s_v_token: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    D: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
):
    o_d = tl.arange(0, BD)
    for i_n in range(i_from, i_to, BN):
        o_n = i_n + tl.arange(0, BN)
        # what no row may see is not read either: it may be NaN
        m_n = ((o_n >= first) & (o_n < end)) | (not IS_MASKED)
        m_nd = m_n[:, None] & (o_d < D)[None, :]
        # [BN]
        b_block, o_token = paged_slots(p_table, i_n, m_n, BN, BLOCK_SIZE)
        # [BN, BD], by offsets of the whole tile: pointers to its tokens would spill registers
        o_k = (b_block * s_k_block + o_token * s_k_token)[:, None] + o_d[None, :]
        b_k = tl.load(p_k + o_k, mask=m_nd, other=0.0).to(b_q.dtype)
        # [BM, BN]
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision="ieee")
        if HAS_SOFT_CAP:
            b_s = soft_capped(b_s, cap_scale)
        if IS_MASKED:
            m_s = o_n[None, :] <= o_position[:, None]
            if HAS_WINDOW:
                m_s = m_s & (o_n[None, :] > o_position[:, None] - window)
            b_s = tl.where(m_s, b_s, float("-inf"))
        b_p, b_shrink, b_max, b_sum = online_softmax(b_s, b_max, b_sum, scale)
        # [BN, BD]
        o_v = (b_block * s_v_block + o_token * s_v_token)[:, None] + o_d[None, :]
        b_v = tl.load(p_v + o_v, mask=m_nd, other=0.0).to(b_q.dtype)
        b_acc = b_acc * b_shrink[:, None]
        b_acc = tl.dot(b_p.to(b_q.dtype), b_v, b_acc, input_precision="ieee")
    return b_acc, b_max, b_sum


@triton.jit(
    do_not_specialize=["s_table", "T", "S", "window"],
    # what stands behind the decodes of a batch begins anywhere
    do_not_specialize_on_alignment=["p_table", "p_lengths"],
)
def paged_prefill_kernel(
    p_q,  # [T, H, D], s_q_token and s_q_head apart
    p_k,  # [num_blocks, BLOCK_SIZE, KVH, D], s_k_block, s_k_token and s_k_head apart
    p_v,  # [num_blocks, BLOCK_SIZE, KVH, D], s_v_block, s_v_token and s_v_head apart
    p_table,  # [S, max_blocks], rows s_table apart
    p_starts,  # [S + 1]
    p_lengths,  # [S]
    p_sinks,  # [H], or q where there are none
    p_k_scale,  # [KVH], or q where nothing is quantised
    p_v_scale,  # [KVH], or q where nothing is quantised
    p_out,  # [T, H, D] contiguous
    s_q_token,
    s_q_head,
    s_table,
    T,
    S,
    scale,
    soft_cap,
    window,
    # of the cache, and with it of the model: known to the compiler, they cost no multiplications
    s_k_block: tl.constexpr,
    s_k_token: tl.constexpr,
    s_k_head: tl.constexpr,
    s_v_block: tl.constexpr,
    s_v_token: tl.constexpr,
    s_v_head: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    HAS_SCALES: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_SOFT_CAP: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    D: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
):
    BQ: tl.constexpr = BM // GROUP
    # a sequence's last tiles see most, so they start first
    i_tile = tl.num_programs(0) - 1 - tl.program_id(0)
    i_kv = tl.program_id(1).to(tl.int64)
    i_s = find_sequence(i_tile, p_starts, S, BQ)
    start = tl.load(p_starts + i_s)
    queries = tl.load(p_starts + i_s + 1, mask=i_s < S, other=T) - start
    i_t = (i_tile - i_s - start // BQ) * BQ
    if i_t >= queries:
        return
    # padding has a length of 0: nothing to see, and zeros come out
    length = tl.load(p_lengths + i_s, mask=i_s < S, other=0)
    o_m = tl.arange(0, BM)
    o_d = tl.arange(0, BD)
    o_t = i_t + o_m // GROUP
    o_h = i_kv * GROUP + o_m % GROUP
    m_m = (o_m < BQ * GROUP) & (o_t < queries)
    m_md = m_m[:, None] & (o_d < D)[None, :]
    # [BM, BD]
    o_q = ((start + o_t).to(tl.int64) * s_q_token + o_h * s_q_head)[:, None] + o_d[None, :]
    b_q = tl.load(p_q + o_q, mask=m_md, other=0.0)
    b_acc = tl.zeros([BM, BD], tl.float32)
    b_max = tl.full([BM], LOWEST, tl.float32)
    b_sum = tl.zeros([BM], tl.float32)
    if HAS_SINKS:
        # [BM]
        b_max = tl.maximum(tl.load(p_sinks + o_h, mask=m_m, other=0.0) * LOG2_E, LOWEST)
        b_sum += 1.0
    if HAS_SCALES:
        scale *= tl.load(p_k_scale + i_kv)
    scale, cap_scale = score_scales(scale, soft_cap, HAS_SOFT_CAP)
    position = length - queries + i_t
    # one past the last position that a row sees, and the first
    end = tl.minimum(position + BQ, length)
    first = tl.maximum(position - window + 1, 0) if HAS_WINDOW else 0
    # tiles from i_full up to i_diagonal are seen whole by every row
    i_from = first // BN * BN
    i_diagonal = tl.maximum((position + 1) // BN * BN, i_from)
    i_full = i_from
    if HAS_WINDOW:
        i_full = tl.minimum(tl.maximum(tl.cdiv(end - window, BN) * BN, i_from), i_diagonal)
    for i_part in tl.static_range(0 if HAS_WINDOW else 1, 3):
        i_to = i_full if i_part == 0 else (i_diagonal if i_part == 1 else end)
        b_acc, b_max, b_sum = attend(
            *(b_acc, b_max, b_sum, b_q, position + o_m // GROUP),
            *(p_table + tl.cast(i_s, tl.int64) * s_table, p_k + i_kv * s_k_head),
            *(p_v + i_kv * s_v_head, i_from, i_to, first, end, scale, cap_scale, window),
            *(i_part != 1, HAS_WINDOW, HAS_SOFT_CAP),
            *(s_k_block, s_k_token, s_v_block, s_v_token, BLOCK_SIZE, D, BN, BD),
        )
        i_from = i_to
    b_out = b_acc / tl.where(b_sum > 0, b_sum, 1.0)[:, None]
    if HAS_SCALES:
        b_out *= tl.load(p_v_scale + i_kv)
    # the same rows in other words, or registers would hold them through the loops
    o_r = (start + i_t) * GROUP + o_m
    m_r = (o_m < BQ * GROUP) & (o_r < (start + queries) * GROUP)
    o_row = (o_r // GROUP).to(tl.int64) * (tl.num_programs(1) * GROUP)
    o_out = (o_row + i_kv * GROUP + o_r % GROUP)[:, None] * D + o_d[None, :]
    m_out = m_r[:, None] & (o_d < D)[None, :]
    tl.store(p_out + o_out, b_out.to(p_out.dtype.element_ty), mask=m_out)


# the tallest tiles, by bytes of a query's element and by head size as padded
TALLEST = {
    (2, 64): Launch(128, 64, 8, 3),
    (2, 128): Launch(128, 64, 8, 3),
    (2, 256): Launch(64, 32, 8, 3),
    (4, 64): Launch(32, 32, 4, 2),
    (4, 128): Launch(32, 16, 8, 2),
    (4, 256): Launch(32, 16, 8, 2),
}

# on sm_90, whose wgmma takes keys from shared memory: fewer of them leave it waiting for its rows
TALLEST_ON_SM90 = {
    (2, 128): Launch(128, 128, 8, 3),
    (2, 256): Launch(128, 64, 8, 3),
}


@cache
def has_wgmma(device: torch.device) -> bool:
    """Return whether a GPU is of sm_90; the interpreter has the tiles of one that is."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device)[0] == 9


def prefill_launch(
    dtype: torch.dtype,
    cache_dtype: torch.dtype,
    head_dim: int,
    group: int,
    rows: int,
    is_sm90: bool,
) -> Launch:
    """Return the launch for sequences of about `rows` rows; `group` of them are one token's.

    No tile needs more registers than sm_80 has, or sm_90.
    """
    kind = dtype.itemsize, head_tile(head_dim)
    launch = TALLEST[kind]
    rows = max(rows, group)
    if rows <= 16:
        launch = launch._replace(rows=16, num_warps=4)
    elif rows <= 64 < launch.rows:
        launch = launch._replace(rows=64, keys=32, num_warps=4)
    elif rows > 64 and is_sm90 and cache_dtype == dtype:
        # keys that are converted go through registers, of which these tiles have none to spare
        launch = TALLEST_ON_SM90.get(kind, launch)
    if cache_dtype == torch.int8:
        launch = launch._replace(keys=max(launch.keys // 2, 16))
    return launch


def _launch(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_table: torch.Tensor,
    query_starts: torch.Tensor,
    lengths: torch.Tensor,
    scale: float,
    window: int | None,
    soft_cap: float | None,
    sinks: torch.Tensor | None,
    scales: tuple[torch.Tensor, torch.Tensor] | None,
    launch: Launch,
) -> torch.Tensor:
    tokens, heads, size = q.shape
    sequences, (block_size, kv_heads) = len(lengths), k_cache.shape[1:3]
    group = heads // kv_heads
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    if tokens:
        # each sequence's tiles and the padding's, from above: how many there are is not known here
        tiles = tokens // (launch.rows // group) + sequences + 1
        paged_prefill_kernel[(tiles, kv_heads)](
            *(q, k_cache, v_cache, block_table, query_starts, lengths),
            *(q if sinks is None else sinks, *(scales or (q, q))),
            *(out, *q.stride()[:2], block_table.stride(0)),
            *(tokens, sequences, scale, soft_cap or 0.0, window or 0),
            *(*k_cache.stride()[:3], *v_cache.stride()[:3]),
            HAS_SINKS=sinks is not None,
            HAS_SCALES=scales is not None,
            HAS_WINDOW=window is not None,
            HAS_SOFT_CAP=soft_cap is not None,
            GROUP=group,
            BLOCK_SIZE=block_size,
            D=size,
            BM=launch.rows,
            BN=launch.keys,
            BD=head_tile(size),
            **launch.options,
        )
    return out


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
    """Return each token's attention to itself and what lies before it, [T, H, D] as `q`'s dtype.

    `q` is [T, H, D] of float32, float16 or bfloat16, its tokens and heads may lie apart. Sequence
    `s` has rows `query_starts[s]` up to `query_starts[s + 1]`, int32 [S + 1], the last tokens of
    its `lengths[s]`, int32 [S]; rows behind `query_starts[S]` are padding and come out as zeros.
    `k_cache` and `v_cache` are [blocks, block size, KVH, D], of any strides but the last, and hold
    these tokens already; `block_table` is int32 [S, blocks of a sequence]. They have `q`'s dtype,
    or are float8_e4m3fn (sm_90 or later) or int8 to be multiplied by `k_scale` and `v_scale`,
    float32 [KVH]. A token sees its last `window` positions, itself included. Scores, times a
    positive `scale`, become `soft_cap * tanh(score / soft_cap)`; `sinks`, float32 [H], are logits
    that only the denominator has (arXiv:2309.17453). Raises KernelError.
    """
    require_shape("q", q, None, None, None)
    if q.shape[2] not in HEAD_DIMS:
        raise KernelError("q", f"has heads of {q.shape[2]}, not one of: {HEAD_DIMS}")
    scales = check_queries(q, k_cache, v_cache, k_scale, v_scale)
    require_shape("lengths", lengths, None)
    check_tables(block_table, lengths)
    require_shape("query_starts", query_starts, len(lengths) + 1)
    require_dtype("query_starts", query_starts, {torch.int32})
    require_contiguous("query_starts", query_starts)
    check_scores(q.shape[1], scale, window, soft_cap, sinks)
    group = q.shape[1] // k_cache.shape[2]
    rows = triton.cdiv(len(q), max(len(lengths), 1)) * group
    dtypes = q.dtype, k_cache.dtype
    launch = prefill_launch(*dtypes, q.shape[2], group, rows, has_wgmma(q.device))
    if group > launch.rows:
        raise KernelError("q", f"has {group} heads to each of k_cache, at most {launch.rows} fit")
    return _launch(
        *(q, k_cache, v_cache, block_table, query_starts, lengths),
        scale=scale,
        window=window,
        soft_cap=soft_cap,
        sinks=sinks,
        scales=scales,
        launch=launch,
    )
