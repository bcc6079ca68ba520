"""RMS norm (arXiv:1910.07467)."""

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

DTYPES = frozenset({torch.float32, torch.float16, torch.bfloat16})
MAX_WIDTH = 65536  # a row is one tile


@triton.jit
def rms_norm_kernel(
    p_x,  # [T, N], rows s_x apart
    p_weight,  # [N]
    p_out,  # [T, N] contiguous
    s_x,
    N,
    eps,
    offset,
    BN: tl.constexpr,
):
    i_t = tl.program_id(0).to(tl.int64)
    o_n = tl.arange(0, BN)
    m_n = o_n < N
    # [BN]
    b_x = tl.load(p_x + i_t * s_x + o_n, mask=m_n, other=0.0).to(tl.float32)
    b_scale = tl.rsqrt(tl.sum(b_x * b_x, axis=0) / N + eps)
    b_weight = tl.load(p_weight + o_n, mask=m_n, other=0.0).to(tl.float32) + offset
    b_out = b_x * b_scale * b_weight
    tl.store(p_out + i_t * N + o_n, b_out.to(p_out.dtype.element_ty), mask=m_n)


def num_warps(tile: int) -> int:
    """Return the warps for a row of this tile: sixteen elements to a thread, within 1 to 16."""
    return min(16, max(1, tile // 512))


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, offset: float = 0.0
) -> torch.Tensor:
    """Return `x / rms(x) * (weight + offset)`, summed in float32.

    `x` is [T, N] of float32, float16 or bfloat16, its rows may lie apart; `weight` is [N]. Gemma's
    weights are told from 1: `offset` 1. Raises KernelError.
    """
    require_shape("x", x, None, None)
    require_dtype("x", x, DTYPES)
    require_rows("x", x)
    require_shape("weight", weight, x.shape[1])
    require_contiguous("weight", weight)
    if x.shape[1] > MAX_WIDTH:
        raise KernelError("x", f"has rows of {x.shape[1]}, at most {MAX_WIDTH} are taken")
    rows, width = x.shape
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    if rows:
        tile = triton.next_power_of_2(width)
        rms_norm_kernel[(rows,)](
            *(x, weight, out, x.stride(0), width, eps, offset),
            BN=tile,
            num_warps=num_warps(tile),
        )
    return out
