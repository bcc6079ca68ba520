"""W4A16 linear: weights of four bits in groups along K, such as GPTQ's (arXiv:2210.17323) and AWQ's
(arXiv:2306.00978)."""

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
from services.generator.backend.gpu.triton.linear.int4_packing import BLOCK, unit_scale, unpack_int4
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


@triton.jit(do_not_specialize=["T"])
def linear_w4a16_kernel(
    p_x,  # [T, K], rows s_x apart
    p_words,  # int32 [ceil(K / 32), N, 4]
    p_units,  # int32 [K / G, N]
    p_bias,  # [N], or units where there is none
    p_out,  # [PARTS, T, N] contiguous
    s_x,
    T,
    N,
    K,
    K_PART,
    G: tl.constexpr,
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
    for i_k in range(i_start, tl.minimum(i_start + K_PART, K), BK):
        # [BK, BT]
        b_x = tl.load(p_x, mask=(i_k + o_k < K)[:, None] & m_t[None, :], other=0.0)
        # [BN, BK / 8], a block is read whole
        m_words = m_n[:, None] & (i_k + o_word // 4 * 32 < K)[None, :]
        b_words = tl.load(p_words, mask=m_words, other=0)
        # [BN], a step lies within one group
        b_units = tl.load(p_units + tl.cast(i_k // G, tl.int64) * N, mask=m_n, other=0)
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
    `words` [ceil(K / 32), N, 4] and `units` [K / G, N] are those of `pack_int4`; G is a multiple
    of 32, or K. The same tokens give the same result each time. Raises KernelError.
    """
    _check(x, words, units, bias)
    (rows, depth), (groups, columns) = x.shape, units.shape
    out = torch.empty((rows, columns), dtype=x.dtype, device=x.device)
    if not out.numel():
        return out
    group = depth // groups
    tiles = tiles_for(rows, x.dtype, depth, group)
    plan = plan_split_k(rows, columns, depth, tiles, num_multiprocessors(x.device))
    target = plan.target(out)
    inner_bias = bias if target is out else None
    linear_w4a16_kernel[(plan.programs, plan.parts)](
        *(x, words, units, units if inner_bias is None else inner_bias, target),
        *(x.stride(0), rows, columns, depth, plan.part_depth),
        G=group,
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
) -> None:
    require_shape("units", units, None, None)
    groups, columns = units.shape
    check_operands(x, columns, bias)
    depth = x.shape[1]
    if not groups or depth % groups:
        raise KernelError("units", f"has {groups} groups, which do not divide K = {depth}")
    if groups > 1 and depth // groups % BLOCK:
        size = depth // groups
        raise KernelError("units", f"has groups of {size}, not of a multiple of {BLOCK}")
    require_shape("words", words, triton.cdiv(depth, BLOCK), columns, 4)
    for name, tensor in (("words", words), ("units", units)):
        require_dtype(name, tensor, {torch.int32})
        require_contiguous(name, tensor)
