"""W4A16 linear: weights of four bits in groups along K, such as GPTQ's (arXiv:2210.17323), AWQ's
(arXiv:2306.00978) and GGUF's."""

import math

import torch
import triton
import triton.language as tl

from services.generator.backend.gpu.triton.checks import (
    KernelError,
    require_contiguous,
    require_dtype,
    require_shape,
)
from services.generator.backend.gpu.triton.linear.int4_packing import (
    BLOCK,
    ZERO_UNIT,
    scale_and_offset,
    unit_scale,
    unpack_int4,
)
from services.generator.backend.gpu.triton.linear.split_k import (
    ANY,
    Tiles,
    check_operands,
    choose,
    num_multiprocessors,
    plan_split_k,
    store_tile,
    sum_parts,
    tile_index,
)

_HALF = (
    (16, Tiles(16, 128, 128, 4, 4)),
    (32, Tiles(32, 64, 128, 4, 4)),
    (64, Tiles(64, 64, 128, 4, 3)),
    (ANY, Tiles(128, 128, 64, 8, 3)),
)
TABLE = {
    torch.float16: _HALF,
    torch.bfloat16: _HALF,
    torch.float32: ((ANY, Tiles(16, 64, 32, 4, 2)),),
}
# what holds a scale and an offset
_PAIRS = {torch.float16: torch.int32, torch.float32: torch.int64}


@triton.jit(do_not_specialize=["T", "unit"])
def linear_w4a16_kernel(
    p_x,  # [T, K], rows s_x apart
    p_words,  # int32 [ceil(K / 32), N, 4]
    p_units,  # int32 [ceil(K / G), N], or int32 or int64 of scales and offsets
    p_bias,  # [N], or units where there is none
    p_out,  # [PARTS, T, N] contiguous
    s_x,
    T,
    N,
    K,
    K_PART,
    unit,  # a unit without a scale, which the compiler may not know
    G: tl.constexpr,
    HAS_OFFSETS: tl.constexpr,
    STAGES: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    GROUP: tl.constexpr,
    BT: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    i_t, i_n = tile_index(T, N, GROUP, BT, BN)
    o_t = i_t.to(tl.int64) * BT + tl.arange(0, BT)
    o_n = i_n * BN + tl.arange(0, BN)
    o_k = tl.arange(0, BK)
    o_word = tl.arange(0, BK // 8)
    m_t = o_t < T
    m_n = o_n < N
    i_start = tl.program_id(1) * K_PART
    p_x += o_t[None, :] * s_x + (i_start + o_k)[:, None]
    o_block = (i_start // 32 + o_word // 4).to(tl.int64)
    p_words += 4 * (o_block[None, :] * N + o_n[:, None]) + (o_word % 4)[None, :]
    p_units += o_n
    b_acc = tl.zeros([BN, BT], tl.float32)
    # told of stages here, the compiler fetches ahead what no dot takes, too
    for i_k in tl.range(i_start, tl.minimum(i_start + K_PART, K), BK, num_stages=STAGES):
        # [BK, BT]
        b_x = tl.load(p_x, mask=(i_k + o_k < K)[:, None] & m_t[None, :], other=0.0)
        # [BN, BK / 8], a block is read whole
        m_words = m_n[:, None] & (i_k + o_word // 4 * 32 < K)[None, :]
        b_words = tl.load(p_words, mask=m_words, other=0)
        # [BN], a step lies within one group
        b_units = tl.load(p_units + tl.cast(i_k // G, tl.int64) * N, mask=m_n, other=0)
        if HAS_OFFSETS:
            b_scales, b_offsets = scale_and_offset(b_units)
            b_w = unpack_int4(b_words, tl.zeros([BN], tl.int32) + unit, b_x.dtype)
            b_acc += tl.dot(b_w, b_x, input_precision="ieee") * b_scales[:, None]
            # the offset is added to each weight, so it counts once for each input
            b_acc += b_offsets[:, None] * tl.sum(b_x.to(tl.float32), axis=0)[None, :]
        else:
            b_w = unpack_int4(b_words, b_units, b_x.dtype)
            b_acc += tl.dot(b_w, b_x, input_precision="ieee") * unit_scale(b_units)[:, None]
        p_x += BK
        p_words += BK // 8 * N
    store_tile(p_out, p_bias, b_acc, o_t, o_n, T, N, HAS_BIAS)


def tiles_for(rows: int, dtype: torch.dtype, depth: int, group: int) -> Tiles:
    """Return the tiles; steps along K lie each within one group."""
    tiles = choose(TABLE[dtype], rows)
    if group == depth:
        return tiles
    return tiles._replace(depth=math.gcd(tiles.depth, group))


def linear_w4a16(
    x: torch.Tensor,
    words: torch.Tensor,
    units: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return `x @ W + bias` in the dtype of `x`, where `W[k, n]` is `scale * (value - zero)`.

    `x` is [T, K] and `bias` [N] of float32, float16 or bfloat16, the rows of `x` may lie apart.
    `words` [ceil(K / 32), N, 4] and `units` [ceil(K / G), N] are those of `pack_int4`; G is 32, or
    a multiple of it that divides K, or K. Where `units` are float16 or float32 [ceil(K / G), N, 2],
    `W[k, n]` is `scale * value + offset` of these pairs, all of whose bits count. The same tokens
    give the same result each time. Raises KernelError.
    """
    group = _check(x, words, units, bias)
    (rows, depth), columns = x.shape, units.shape[1]
    out = torch.empty((rows, columns), dtype=x.dtype, device=x.device)
    if not out.numel():
        return out
    tiles = tiles_for(rows, x.dtype, depth, group)
    plan = plan_split_k(rows, columns, depth, tiles, num_multiprocessors(x.device))
    target = plan.target(out)
    inner_bias = bias if target is out else None
    has_offsets = units.ndim == 3
    if has_offsets:
        units = units.view(_PAIRS[units.dtype])
    linear_w4a16_kernel[(plan.programs, plan.parts)](
        *(x, words, units, units if inner_bias is None else inner_bias, target),
        *(x.stride(0), rows, columns, depth, plan.part_depth, ZERO_UNIT),
        G=group,
        HAS_OFFSETS=has_offsets,
        STAGES=tiles.num_stages if has_offsets else None,
        HAS_BIAS=inner_bias is not None,
        **plan.constants,
        **plan.options,
    )
    if target is not out:
        sum_parts(target, bias, out)
    return out


def _check(
    x: torch.Tensor,
    words: torch.Tensor,
    units: torch.Tensor,
    bias: torch.Tensor | None,
) -> int:
    """Return the size of the groups; raises KernelError."""
    has_offsets = units.ndim == 3
    require_shape("units", units, None, None, *([2] if has_offsets else []))
    groups, columns = units.shape[:2]
    check_operands(x, columns, bias)
    depth = x.shape[1]
    group = _group_size(depth, groups)
    require_shape("words", words, triton.cdiv(depth, BLOCK), columns, 4)
    require_dtype("words", words, {torch.int32})
    require_dtype("units", units, _PAIRS if has_offsets else {torch.int32})
    for name, tensor in (("words", words), ("units", units)):
        require_contiguous(name, tensor)
    return group


def _group_size(depth: int, groups: int) -> int:
    if groups and depth % groups == 0 and (groups == 1 or depth // groups % BLOCK == 0):
        return depth // groups
    if groups == triton.cdiv(depth, BLOCK):
        return BLOCK
    raise KernelError("units", f"has {groups} groups, which do not cut K = {depth} at {BLOCK}s")
