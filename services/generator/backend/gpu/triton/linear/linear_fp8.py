"""FP8 linear: activations and weights in E4M3 (arXiv:2209.05433), and the quantisation of tokens.

Needs sm_90.
"""

import torch
import triton
import triton.language as tl

from services.generator.backend.gpu.triton.checks import (
    KernelError,
    require_capability,
    require_contiguous,
    require_dtype,
    require_shape,
)
from services.generator.backend.gpu.triton.elementwise.rms_norm import num_warps
from services.generator.backend.gpu.triton.linear.split_k import (
    ANY,
    DTYPES,
    Tiles,
    check_operands,
    choose,
    num_multiprocessors,
    plan_split_k,
    store_tile,
    sum_parts,
    tile_index,
)

LEAST_CAPABILITY = (9, 0)
MAX_WIDTH = 65536  # a row to be quantised is one tile

TABLE = (
    (16, Tiles(16, 64, 128, 4, 5)),
    (32, Tiles(32, 64, 128, 4, 5)),
    (64, Tiles(64, 64, 128, 4, 4)),
    (ANY, Tiles(128, 128, 128, 8, 3)),
)


@triton.jit(do_not_specialize=["T", "s_x_scale", "s_weight_scale"])
def linear_fp8_kernel(
    p_x,  # float8 [T, K], rows s_x apart
    p_weight,  # float8 [N, K] contiguous
    p_x_scale,  # float32 [T], or one value and s_x_scale 0
    p_weight_scale,  # float32 [N], or one value and s_weight_scale 0
    p_bias,  # [N], or p_weight_scale where there is none
    p_out,  # [PARTS, T, N] contiguous
    s_x,
    s_x_scale,
    s_weight_scale,
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
        b_w = tl.load(p_weight, mask=m_n[:, None] & m_k[None, :], other=0.0)
        # Hopper sums eight-bit floats in fewer bits than 32: no further than one step
        b_acc = tl.dot(b_w, b_x, b_acc, max_num_imprecise_acc=BK)
        p_x += BK
        p_weight += BK
    b_acc *= tl.load(p_weight_scale + o_n * s_weight_scale, mask=m_n, other=0.0)[:, None]
    b_acc *= tl.load(p_x_scale + o_t * s_x_scale, mask=m_t, other=0.0)[None, :]
    store_tile(p_out, p_bias, b_acc, o_t, o_n, T, N, HAS_BIAS)


@triton.jit
def quantize_fp8_kernel(
    p_x,  # [T, N], rows s_x apart
    p_out,  # float8 [T, N] contiguous
    p_scales,  # float32 [T]
    s_x,
    N,
    BN: tl.constexpr,
):
    i_t = tl.program_id(0).to(tl.int64)
    o_n = tl.arange(0, BN)
    m_n = o_n < N
    # [BN]
    b_x = tl.load(p_x + i_t * s_x + o_n, mask=m_n, other=0.0).to(tl.float32)
    # a row of zeros has a scale too
    b_scale = tl.div_rn(tl.maximum(tl.max(tl.abs(b_x), axis=0), 1e-12), 448.0)
    tl.store(p_scales + i_t, b_scale)
    b_y = b_x / b_scale
    # rounded to E4M3's steps, ties to even, before a cast that need not round (the interpreter's
    # does it wrongly): the step is 2**(exponent - 3), of subnormals 2**-9, and adding 1.5 * 2**23
    # of them leaves no bits below it
    b_power = (b_y.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
    b_shift = tl.maximum(b_power, 0.015625) * 1572864.0
    b_y = (b_y + b_shift) - b_shift
    tl.store(p_out + i_t * N + o_n, b_y.to(tl.float8e4nv), mask=m_n)


def _launch(
    x: torch.Tensor,
    weight: torch.Tensor,
    scales: tuple[torch.Tensor, torch.Tensor],
    bias: torch.Tensor | None,
    out_dtype: torch.dtype,
) -> torch.Tensor:
    (rows, depth), columns = x.shape, weight.shape[0]
    out = torch.empty((rows, columns), dtype=out_dtype, device=x.device)
    if not out.numel():
        return out
    plan = plan_split_k(rows, columns, depth, choose(TABLE, rows), num_multiprocessors(x.device))
    target = plan.target(out)
    inner_bias = bias if target is out else None
    linear_fp8_kernel[(plan.programs, plan.parts)](
        *(x, weight, *scales, scales[1] if inner_bias is None else inner_bias, target),
        *(x.stride(0), *(int(scale.numel() > 1) for scale in scales)),
        *(rows, columns, depth, plan.part_depth),
        HAS_BIAS=inner_bias is not None,
        **plan.constants,
        **plan.options,
    )
    if target is not out:
        sum_parts(target, bias, out)
    return out


def linear_fp8(
    x: torch.Tensor,
    weight: torch.Tensor,
    x_scale: torch.Tensor,
    weight_scale: torch.Tensor,
    bias: torch.Tensor | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
) -> torch.Tensor:
    """Return `(x * x_scale) @ (weight * weight_scale).T + bias`, summed in float32.

    `x` [T, K], its rows may lie apart, and `weight` [N, K] are float8_e4m3fn; `x_scale` is float32
    of one value or [T], `weight_scale` of one value or [N]; `bias` [N] and `out_dtype` are of
    float32, float16 or bfloat16. Raises KernelError, also on devices before sm_90.
    """
    require_capability("linear_fp8", x.device, LEAST_CAPABILITY)
    require_shape("weight", weight, None, None)
    check_operands(x, weight.shape[0], bias, frozenset({torch.float8_e4m3fn}))
    require_shape("weight", weight, None, x.shape[1])
    require_dtype("weight", weight, {torch.float8_e4m3fn})
    require_contiguous("weight", weight)
    _check_scale("x_scale", x_scale, x.shape[0])
    _check_scale("weight_scale", weight_scale, weight.shape[0])
    if out_dtype not in DTYPES:
        raise KernelError("out_dtype", f"is {out_dtype}, not one of float32, float16, bfloat16")
    return _launch(x, weight, (x_scale, weight_scale), bias, out_dtype)


def quantize_fp8(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `x` [T, N] in float8_e4m3fn, and the float32 scales [T] to multiply it with.

    Each row's largest magnitude becomes 448, E4M3's largest; values are rounded, ties to even. `x`
    is of float32, float16 or bfloat16, its rows may lie apart. Raises KernelError, also on devices
    before sm_90.
    """
    require_capability("quantize_fp8", x.device, LEAST_CAPABILITY)
    check_operands(x, 0, None)
    if x.shape[1] > MAX_WIDTH:
        raise KernelError("x", f"has rows of {x.shape[1]}, at most {MAX_WIDTH} are taken")
    rows, width = x.shape
    out = torch.empty((rows, width), dtype=torch.float8_e4m3fn, device=x.device)
    scales = torch.empty(rows, dtype=torch.float32, device=x.device)
    if rows:
        tile = triton.next_power_of_2(width)
        quantize_fp8_kernel[(rows,)](
            *(x, out, scales, x.stride(0), width), BN=tile, num_warps=num_warps(tile)
        )
    return out, scales


def _check_scale(name: str, scale: torch.Tensor, size: int) -> None:
    if scale.numel() != 1:
        require_shape(name, scale, size)
    require_dtype(name, scale, {torch.float32})
    require_contiguous(name, scale)
