"""W8A16 linear: weights of eight bits, one scale for each output channel, widened in registers."""

import torch
import triton
import triton.language as tl

from services.generator.backend.gpu.triton.checks import (
    require_contiguous,
    require_dtype,
    require_shape,
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
    (16, Tiles(16, 64, 128, 4, 5)),
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
def linear_w8a16_kernel(
    p_x,  # [T, K], rows s_x apart
    p_weight,  # int8 [N, K] contiguous
    p_scales,  # float32 [N]
    p_bias,  # [N], or scales where there is none
    p_out,  # [PARTS, T, N] contiguous
    s_x,
    T,
    N,
    K,
    K_PART,
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
    m_t = o_t < T
    m_n = o_n < N
    i_start = tl.program_id(1) * K_PART
    p_x += o_t[None, :] * s_x + (i_start + o_k)[:, None]
    p_weight += o_n.to(tl.int64)[:, None] * K + (i_start + o_k)[None, :]
    b_acc = tl.zeros([BN, BT], tl.float32)
    for i_k in range(i_start, tl.minimum(i_start + K_PART, K), BK):
        m_k = i_k + o_k < K
        # [BK, BT]
        b_x = tl.load(p_x, mask=m_k[:, None] & m_t[None, :], other=0.0)
        # [BN, BK]
        b_w = tl.load(p_weight, mask=m_n[:, None] & m_k[None, :], other=0)
        # integers up to 127 are exact in every dtype, the scale waits for the sum
        b_acc = tl.dot(b_w.to(b_x.dtype), b_x, b_acc, input_precision="ieee")
        p_x += BK
        p_weight += BK
    b_acc *= tl.load(p_scales + o_n, mask=m_n, other=0.0)[:, None]
    store_tile(p_out, p_bias, b_acc, o_t, o_n, T, N, HAS_BIAS)


def _launch(
    x: torch.Tensor, weight: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    (rows, depth), columns = x.shape, weight.shape[0]
    out = torch.empty((rows, columns), dtype=x.dtype, device=x.device)
    if not out.numel():
        return out
    tiles = choose(TABLE[x.dtype], rows)
    plan = plan_split_k(rows, columns, depth, tiles, num_multiprocessors(x.device))
    target = plan.target(out)
    inner_bias = bias if target is out else None
    linear_w8a16_kernel[(plan.programs, plan.parts)](
        *(x, weight, scales, scales if inner_bias is None else inner_bias, target),
        *(x.stride(0), rows, columns, depth, plan.part_depth),
        HAS_BIAS=inner_bias is not None,
        **plan.constants,
        **plan.options,
    )
    if target is not out:
        sum_parts(target, bias, out)
    return out


def linear_w8a16(
    x: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return `x @ (weight * scales[:, None]).T + bias`, summed in float32, in the dtype of `x`.

    `x` is [T, K] of float32, float16 or bfloat16, its rows may lie apart; `weight` is int8 [N, K],
    `scales` float32 [N], `bias` [N] of any of the three. The same tokens give the same result each
    time. Raises KernelError.
    """
    require_shape("weight", weight, None, None)
    check_operands(x, weight.shape[0], bias)
    require_shape("weight", weight, None, x.shape[1])
    require_dtype("weight", weight, {torch.int8})
    require_contiguous("weight", weight)
    require_shape("scales", scales, weight.shape[0])
    require_dtype("scales", scales, {torch.float32})
    require_contiguous("scales", scales)
    return _launch(x, weight, scales, bias)
