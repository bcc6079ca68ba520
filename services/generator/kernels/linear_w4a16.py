"""Products with weights of four bits in groups along K, as GPTQ (arXiv:2210.17323) and AWQ
(arXiv:2306.00978) store them."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from services.generator.kernels.checks import (
    KernelError,
    require_contiguous,
    require_dtype,
    require_shape,
)
from services.generator.kernels.linear_plan import (
    ANY,
    DTYPES,
    Tiles,
    check_operands,
    choose,
    multiprocessors,
    planned,
    store_tile,
    sum_parts,
    tile_index,
)
from services.generator.kernels.nibbles import above_power, shift_of, unpacked

LEAST_GROUP = 32  # the least step along K

_HALF = (
    (16, Tiles(16, 64, 128, 4, 4)),
    (32, Tiles(32, 64, 128, 4, 4)),
    (64, Tiles(64, 64, 64, 4, 4)),
    (ANY, Tiles(128, 64, 64, 8, 3)),
)
TABLE = {
    torch.float16: _HALF,
    torch.bfloat16: _HALF,
    torch.float32: ((ANY, Tiles(16, 64, 32, 4, 2)),),
}


@triton.jit(do_not_specialize=["T"])
def linear_w4a16_kernel(
    p_x,  # [T, K], rows s_x apart
    p_words,  # int32 [K / 8, N], or [K, N / 8] for AWQ
    p_zeros,  # int32 [K / G, N / 8]
    p_scales,  # [K / G, N]
    p_bias,  # [N], or scales where there is none
    p_out,  # [PARTS, T, N] contiguous
    s_x,
    T,
    N,
    K,
    G,
    K_PART,
    ZERO_OFFSET: tl.constexpr,
    IS_AWQ: tl.constexpr,
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
    o_k_word = tl.arange(0, BK // 8)
    o_n_word = i_n * (BN // 8) + tl.arange(0, BN // 8)
    m_t = o_t < T
    m_n = o_n < N
    k_from = tl.program_id(1) * K_PART
    k_to = tl.minimum(k_from + K_PART, K)
    p_x += o_t[None, :] * s_x + (k_from + o_k)[:, None]
    if IS_AWQ:
        p_words += (k_from + o_k).to(tl.int64)[:, None] * (N // 8) + o_n_word[None, :]
    else:
        p_words += (k_from // 8 + o_k_word).to(tl.int64)[None, :] * N + o_n[:, None]
    p_scales += o_n
    p_zeros += o_n // 8
    # [BN]; the compiler does not pipeline scales: those of a step are loaded during the one before
    b_next = tl.load(p_scales + tl.cast(k_from // G, tl.int64) * N, mask=m_n, other=0.0)
    b_acc = tl.zeros([BN, BT], tl.float32)
    for k in range(k_from, k_to, BK):
        m_k = k + o_k < K
        # [BK, BT]
        b_x = tl.load(p_x, mask=m_k[:, None] & m_t[None, :], other=0.0)
        b_scale = b_next.to(tl.float32)
        i_next = tl.cast((k + BK) // G, tl.int64)
        b_next = tl.load(p_scales + i_next * N, mask=m_n & (k + BK < k_to), other=0.0)
        # a step lies within one group
        b_zeros = tl.load(p_zeros + tl.cast(k // G, tl.int64) * (N // 8), mask=m_n, other=0)
        b_zero = ((b_zeros >> shift_of(o_n % 8, IS_AWQ)) + ZERO_OFFSET) & 15
        b_zero = above_power(b_zero, b_x.dtype)
        if IS_AWQ:
            # [BK, BN / 8]
            m_words = m_k[:, None] & (o_n_word < N // 8)[None, :]
            b_words = tl.load(p_words, mask=m_words, other=0)
            b_w = tl.trans(above_power(unpacked(b_words, 8, 4, 16), b_x.dtype) - b_zero[None, :])
        else:
            # [BN, BK / 8]
            m_words = m_n[:, None] & (k + 8 * o_k_word < K)[None, :]
            b_words = tl.load(p_words, mask=m_words, other=0)
            b_w = above_power(unpacked(b_words, 16, 8, 4), b_x.dtype) - b_zero[:, None]
        b_acc += tl.dot(b_w, b_x, input_precision="ieee") * b_scale[:, None]
        p_x += BK
        p_words += BK // 8 * N
    store_tile(p_out, p_bias, b_acc, o_t, o_n, T, N, HAS_BIAS)


def tiles_for(rows: int, dtype: torch.dtype, depth: int, group: int) -> Tiles:
    """Return the tiles; steps along K lie each within one group."""
    tiles = choose(TABLE[dtype], rows)
    if group == depth:
        return tiles
    return tiles._replace(depth=math.gcd(tiles.depth, group))


def _launch(
    x: torch.Tensor,
    weight: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    bias: torch.Tensor | None,
    zero_offset: int,
    is_awq: bool,
) -> torch.Tensor:
    scales = weight[2]
    (rows, depth), (groups, columns) = x.shape, scales.shape
    out = torch.empty((rows, columns), dtype=x.dtype, device=x.device)
    if not out.numel():
        return out
    group = depth // groups
    tiles = tiles_for(rows, x.dtype, depth, group)
    plan = planned(rows, columns, depth, tiles, multiprocessors(x.device))
    target = plan.target(out)
    inner_bias = bias if target is out else None
    linear_w4a16_kernel[(plan.programs, plan.parts)](
        *(x, *weight, scales if inner_bias is None else inner_bias, target),
        *(x.stride(0), rows, columns, depth, group, plan.part_depth),
        ZERO_OFFSET=zero_offset,
        IS_AWQ=is_awq,
        HAS_BIAS=inner_bias is not None,
        **plan.constants,
        **plan.options,
    )
    if target is not out:
        sum_parts(target, bias, out)
    return out


def linear_gptq(
    x: torch.Tensor,
    qweight: torch.Tensor,
    qzeros: torch.Tensor,
    scales: torch.Tensor,
    bias: torch.Tensor | None = None,
    zero_offset: int = 1,
    g_idx: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return `x @ W + bias` in the dtype of `x`, where `W[k, n]` is `scale * (value - zero)`.

    `x` is [T, K] of float32, float16 or bfloat16, its rows may lie apart. `qweight` is int32
    [K / 8, N], a word holding eight values of consecutive k, the first in the lowest bits; `qzeros`
    int32 [K / G, N / 8], eight consecutive n likewise; `scales` [K / G, N] and `bias` [N] of any of
    the three dtypes. G is a multiple of 32, or K. The zero is the stored one plus `zero_offset`
    (modulo 16): 1 in the classic format, 0 in `gptq_v2`. Groups in another order than k's are not
    taken: `g_idx` must be None. Raises KernelError.
    """
    if g_idx is not None:
        raise KernelError("g_idx", "is not taken: groups must be of consecutive k (no act-order)")
    if zero_offset not in (0, 1):
        raise KernelError("zero_offset", f"is {zero_offset}, not 0 or 1")
    _check(x, qweight, qzeros, scales, bias, is_awq=False)
    return _launch(x, (qweight, qzeros, scales), bias, zero_offset, is_awq=False)


def linear_awq(
    x: torch.Tensor,
    qweight: torch.Tensor,
    qzeros: torch.Tensor,
    scales: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the same as `linear_gptq` for `qweight` int32 [K, N / 8].

    A word of `qweight` and of `qzeros` holds eight consecutive n in AWQ's order: from the lowest
    bits 0, 2, 4, 6, 1, 3, 5, 7. Zeros are stored as they are.
    """
    _check(x, qweight, qzeros, scales, bias, is_awq=True)
    return _launch(x, (qweight, qzeros, scales), bias, 0, is_awq=True)


def _check(
    x: torch.Tensor,
    qweight: torch.Tensor,
    qzeros: torch.Tensor,
    scales: torch.Tensor,
    bias: torch.Tensor | None,
    is_awq: bool,
) -> None:
    require_shape("scales", scales, None, None)
    require_dtype("scales", scales, DTYPES)
    require_contiguous("scales", scales)
    groups, columns = scales.shape
    if columns % 8:
        raise KernelError("scales", f"has {columns} columns, not a multiple of 8")
    check_operands(x, columns, bias)
    depth = x.shape[1]
    if depth % 8 and not is_awq:
        raise KernelError("x", f"has {depth} columns, not a multiple of 8")
    if not groups or depth % groups:
        raise KernelError("scales", f"has {groups} groups, which do not divide K = {depth}")
    if groups > 1 and depth // groups % LEAST_GROUP:
        size = depth // groups
        raise KernelError("scales", f"has groups of {size}, not of a multiple of {LEAST_GROUP}")
    words = (depth, columns // 8) if is_awq else (depth // 8, columns)
    require_shape("qweight", qweight, *words)
    require_shape("qzeros", qzeros, groups, columns // 8)
    for name, tensor in (("qweight", qweight), ("qzeros", qzeros)):
        require_dtype(name, tensor, {torch.int32})
        require_contiguous(name, tensor)
