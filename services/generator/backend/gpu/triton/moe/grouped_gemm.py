"""Grouped GEMM for mixtures of experts (arXiv:1701.06538): rows times their experts' weights."""

import torch
import triton
import triton.language as tl

from services.generator.backend.gpu.triton.checks import (
    KernelError,
    require_contiguous,
    require_dtype,
    require_rows,
    require_shape,
)
from services.generator.backend.gpu.triton.moe.moe_sort import SortedRows

DTYPES = frozenset({torch.float32, torch.float16, torch.bfloat16})
GROUP = 8
# of 16-bit elements by row tile: BN, BK, warps, stages
LAUNCHES = {
    16: (64, 128, 4, 4),
    32: (64, 128, 4, 4),
    64: (128, 64, 4, 4),
    128: (128, 64, 8, 3),
}
WIDE_LAUNCH = (32, 32, 4, 2)  # of float32, whose products take no tensor cores
COMBINE_TILE = 1024


@triton.jit(do_not_specialize=["S"])
def grouped_gemm_kernel(
    p_x,  # [T, K] or [T * C, K], rows s_x apart
    p_weights,  # [E, N, K], experts s_weights_expert and rows s_weights_row apart
    p_pairs,  # [S]
    p_experts,  # [ceil(S / BM)]
    p_out,  # [T * C, N] contiguous
    s_x,
    s_weights_expert,
    s_weights_row,
    S,
    N,
    K,
    C: tl.constexpr,  # pairs that take the same row of x
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
):
    # GROUP row tiles take the same weights after each other, so that they are read once
    i_p = tl.program_id(0)
    COLUMNS = tl.cdiv(N, BN)
    i_first = i_p // (GROUP * COLUMNS) * GROUP
    i_p = i_p % (GROUP * COLUMNS)
    ROWS = tl.minimum(tl.cdiv(S, BM) - i_first, GROUP)
    i_m = i_first + i_p % ROWS
    i_n = i_p // ROWS

    o_m = i_m * BM + tl.arange(0, BM)
    o_n = (i_n * BN + tl.arange(0, BN)).to(tl.int64)
    o_k = tl.arange(0, BK)
    m_n = o_n < N
    b_pair = tl.load(p_pairs + o_m, mask=o_m < S, other=-1)  # [BM]
    m_m = b_pair >= 0
    b_expert = tl.load(p_experts + i_m).to(tl.int64)
    p_xs = p_x + (b_pair // C).to(tl.int64)[:, None] * s_x + o_k[None, :]
    p_ws = p_weights + b_expert * s_weights_expert + o_n[None, :] * s_weights_row + o_k[:, None]
    b_acc = tl.zeros([BM, BN], tl.float32)
    # without an expert nothing is summed, and the rows become zero
    for i_k in range(0, tl.where(b_expert >= 0, K, 0), BK):
        m_k = i_k + o_k < K
        # [BM, BK], [BK, BN]
        b_x = tl.load(p_xs + i_k, mask=m_m[:, None] & m_k[None, :], other=0.0)
        b_w = tl.load(p_ws + i_k, mask=m_k[:, None] & m_n[None, :], other=0.0)
        b_acc = tl.dot(b_x, b_w, b_acc, input_precision="ieee")
    p_o = p_out + b_pair.to(tl.int64)[:, None] * N + o_n[None, :]
    tl.store(p_o, b_acc.to(p_out.dtype.element_ty), mask=m_m[:, None] & m_n[None, :])


@triton.jit
def combine_kernel(
    p_outputs,  # [T * C, N] contiguous
    p_topk_weights,  # [T, C] contiguous
    p_out,  # [T, N] contiguous
    N,
    C: tl.constexpr,
    BN: tl.constexpr,
):
    i_t = tl.program_id(0).to(tl.int64)
    o_n = tl.program_id(1) * BN + tl.arange(0, BN)
    m_n = o_n < N
    b_sum = tl.zeros([BN], tl.float32)
    for i_c in tl.static_range(C):
        b_weight = tl.load(p_topk_weights + i_t * C + i_c).to(tl.float32)
        p_row = p_outputs + (i_t * C + i_c) * N + o_n
        b_sum += b_weight * tl.load(p_row, mask=m_n, other=0.0).to(tl.float32)  # [BN]
    tl.store(p_out + i_t * N + o_n, b_sum.to(p_out.dtype.element_ty), mask=m_n)


def row_tile(pairs: int, num_experts: int) -> int:
    """Return the row tile for so many pairs: the power of two that an expert's share fills."""
    share: int = triton.next_power_of_2(pairs // num_experts)
    return min(128, max(16, share))


def launch_options(tile: int, dtype: torch.dtype) -> dict[str, int]:
    """Return tiles, warps and stages; they depend on the row tile, not on the batch."""
    columns, depth, warps, stages = LAUNCHES[tile] if dtype.itemsize == 2 else WIDE_LAUNCH
    tiles = {"BM": tile, "BN": columns, "BK": depth, "GROUP": GROUP}
    return {**tiles, "num_warps": warps, "num_stages": stages}


def _launch(x: torch.Tensor, weights: torch.Tensor, rows: SortedRows) -> torch.Tensor:
    width = weights.shape[1]
    out = torch.empty(rows.num_pairs, width, dtype=x.dtype, device=x.device)
    if out.numel():
        options = launch_options(rows.tile, x.dtype)
        columns = triton.cdiv(width, options["BN"])
        grouped_gemm_kernel[(rows.expert_ids.numel() * columns,)](
            *(x, weights, rows.pair_ids, rows.expert_ids, out),
            *(x.stride(0), weights.stride(0), weights.stride(1)),
            *(rows.pair_ids.numel(), width, x.shape[1]),
            C=1 if x.shape[0] == rows.num_pairs else rows.num_choices,
            **options,
        )
    return out


def grouped_gemm(x: torch.Tensor, weights: torch.Tensor, rows: SortedRows) -> torch.Tensor:
    """Return [T * C, N]: row `token * C + choice` is that pair's row of `x` times its expert's W.T.

    `x` is [T, K], each row taken by its token's C pairs, or [T * C, K], of float32, float16 or
    bfloat16; its rows may lie apart. `weights` are [E, N, K] of the same dtype, rows and experts
    apart or not. Rows of pairs without an expert are zero. Sums are in float32, over K in one
    order: with one row tile (`rows.tile`) a token's result has the same bits whatever the others
    are, with another it may differ by rounding. Raises KernelError.
    """
    require_shape("x", x, None, None)
    require_dtype("x", x, DTYPES)
    require_rows("x", x)
    if x.shape[0] not in (rows.num_tokens, rows.num_pairs):
        raise KernelError("x", f"has {x.shape[0]} rows, not {rows.num_tokens} or {rows.num_pairs}")
    require_shape("weights", weights, rows.num_experts, None, x.shape[1])
    require_dtype("weights", weights, {x.dtype})
    require_rows("weights", weights)
    return _launch(x, weights, rows)


def combine(outputs: torch.Tensor, topk_weights: torch.Tensor) -> torch.Tensor:
    """Return [T, N], each token's C rows times their weights, summed in float32 in order.

    `outputs` are [T * C, N] of float32, float16 or bfloat16, the result's dtype; `topk_weights` are
    [T, C] of float32 or that dtype; both contiguous. Raises KernelError.
    """
    require_shape("topk_weights", topk_weights, None, None)
    tokens, choices = topk_weights.shape
    require_shape("outputs", outputs, tokens * choices, None)
    require_dtype("outputs", outputs, DTYPES)
    require_dtype("topk_weights", topk_weights, {torch.float32, outputs.dtype})
    require_contiguous("outputs", outputs)
    require_contiguous("topk_weights", topk_weights)
    width = outputs.shape[1]
    out = torch.empty(tokens, width, dtype=outputs.dtype, device=outputs.device)
    if out.numel():
        grid = (tokens, triton.cdiv(width, COMBINE_TILE))
        combine_kernel[grid](outputs, topk_weights, out, width, C=choices, BN=COMBINE_TILE)
    return out
