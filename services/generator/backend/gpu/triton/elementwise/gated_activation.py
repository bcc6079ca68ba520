"""Gated activations: SwiGLU and GeGLU (arXiv:2002.05202), after their projection."""

import math

import torch
import triton
import triton.language as tl

from services.generator.backend.gpu.triton.checks import (
    KernelError,
    require_dtype,
    require_rows,
    require_shape,
)
from services.generator.backend.gpu.triton.elementwise.elementwise_tiles import (
    NUM_WARPS,
    elementwise_tile,
)

LOG2_E = tl.constexpr(math.log2(math.e))
DTYPES = frozenset({torch.float32, torch.float16, torch.bfloat16})
ACTIVATIONS = frozenset({"silu", "gelu_tanh"})


@triton.jit(do_not_specialize=["T"])
def gated_activation_kernel(
    p_x,  # [T, 2 N], gate and up, rows s_x apart
    p_out,  # [T, N] contiguous
    s_x,
    T,
    N: tl.constexpr,  # the model's: a constant is divided by without a division
    IS_GELU: tl.constexpr,
    BT: tl.constexpr,
    BN: tl.constexpr,
):
    # programs of one row are neighbours
    N_TILES: tl.constexpr = (N + BN - 1) // BN
    i_t = tl.program_id(0) // N_TILES
    i_n = tl.program_id(0) % N_TILES
    o_t = i_t.to(tl.int64) * BT + tl.arange(0, BT)[:, None]
    o_n = i_n * BN + tl.arange(0, BN)[None, :]
    m_x = (o_t < T) & (o_n < N)
    p_gate = p_x + o_t * s_x + o_n
    b_gate = tl.load(p_gate, mask=m_x, other=0.0).to(tl.float32)  # [BT, BN]
    b_up = tl.load(p_gate + N, mask=m_x, other=0.0).to(tl.float32)  # [BT, BN]
    b_x = b_gate
    if IS_GELU:
        # (1 + tanh(y)) / 2 is the sigmoid of 2 y, and this is 2 sqrt(2 / pi)
        b_x = 1.5957691216057308 * (b_gate + 0.044715 * b_gate * b_gate * b_gate)
    # exp's own product with log2(e) takes a negation and a test for tiny results more
    b_out = b_gate / (1.0 + tl.exp2(b_x * -LOG2_E)) * b_up
    tl.store(p_out + o_t * N + o_n, b_out.to(p_out.dtype.element_ty), mask=m_x)


def _launch(gate_up: torch.Tensor, is_gelu: bool) -> torch.Tensor:
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty(rows, width)
    if out.numel():
        tile_rows, tile_columns = elementwise_tile(width)
        grid = (triton.cdiv(rows, tile_rows) * triton.cdiv(width, tile_columns),)
        gated_activation_kernel[grid](
            *(gate_up, out),
            *(gate_up.stride(0), rows, width),
            IS_GELU=is_gelu,
            BT=tile_rows,
            BN=tile_columns,
            num_warps=NUM_WARPS,
        )
    return out


def gated_activation(gate_up: torch.Tensor, activation: str) -> torch.Tensor:
    """Return `activation(gate) * up` [T, N], computed in float32.

    `gate_up` is [T, 2 N] of float32, float16 or bfloat16, the gate's columns first; rows may lie
    apart. `activation` is "silu" or "gelu_tanh", GELU by its tanh formula. Raises KernelError.
    """
    require_shape("gate_up", gate_up, None, None)
    require_dtype("gate_up", gate_up, DTYPES)
    require_rows("gate_up", gate_up)
    if gate_up.shape[1] % 2:
        raise KernelError("gate_up", f"has {gate_up.shape[1]} columns, which is odd")
    if activation not in ACTIVATIONS:
        raise KernelError("activation", f"is {activation!r}, not one of {sorted(ACTIVATIONS)}")
    return _launch(gate_up, activation == "gelu_tanh")
