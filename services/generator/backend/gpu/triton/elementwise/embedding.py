"""Embedding: rows of a table by token id."""

import torch
import triton
import triton.language as tl

from services.generator.backend.gpu.triton.checks import (
    require_contiguous,
    require_dtype,
    require_rows,
    require_shape,
)
from services.generator.backend.gpu.triton.elementwise.elementwise_tiles import (
    NUM_WARPS,
    elementwise_tile,
)

DTYPES = frozenset({torch.float32, torch.float16, torch.bfloat16})


@triton.jit(do_not_specialize=["T"])
def embedding_kernel(
    p_ids,  # [T]
    p_table,  # [V, N], rows s_table apart
    p_out,  # [T, N] contiguous
    s_table,
    T,
    V,
    scale,
    N: tl.constexpr,  # the model's: a constant is divided by without a division
    BT: tl.constexpr,
    BN: tl.constexpr,
):
    # programs of one row are neighbours
    N_TILES: tl.constexpr = (N + BN - 1) // BN
    i_t = tl.program_id(0) // N_TILES
    i_n = tl.program_id(0) % N_TILES
    o_t = i_t.to(tl.int64) * BT + tl.arange(0, BT)[:, None]
    o_n = i_n * BN + tl.arange(0, BN)[None, :]
    m_t = o_t < T
    b_id = tl.load(p_ids + o_t, mask=m_t, other=-1).to(tl.int64)  # [BT, 1]
    m_x = (b_id >= 0) & (b_id < V) & (o_n < N)
    b_x = tl.load(p_table + b_id * s_table + o_n, mask=m_x, other=0.0)  # [BT, BN]
    b_out = (b_x.to(tl.float32) * scale).to(p_out.dtype.element_ty)
    tl.store(p_out + o_t * N + o_n, b_out, mask=m_t & (o_n < N))


def _launch(token_ids: torch.Tensor, table: torch.Tensor, scale: float) -> torch.Tensor:
    rows, (vocabulary, width) = len(token_ids), table.shape
    out = table.new_empty(rows, width)
    if out.numel():
        tile_rows, tile_columns = elementwise_tile(width)
        grid = (triton.cdiv(rows, tile_rows) * triton.cdiv(width, tile_columns),)
        embedding_kernel[grid](
            *(token_ids, table, out),
            *(table.stride(0), rows, vocabulary, scale, width),
            BT=tile_rows,
            BN=tile_columns,
            num_warps=NUM_WARPS,
        )
    return out


def embedding(
    token_ids: torch.Tensor, table: torch.Tensor, scale: float | None = None
) -> torch.Tensor:
    """Return the rows of `table` [V, N] at `token_ids` [T] as [T, N], times `scale` if given.

    `token_ids` are int64 or int32; one outside the vocabulary gives zeros, which is what a part of
    a divided table has to add. `table` is float32, float16 or bfloat16, its rows may lie apart.
    Gemma scales by the square root of N. Raises KernelError.
    """
    require_shape("token_ids", token_ids, None)
    require_dtype("token_ids", token_ids, {torch.int64, torch.int32})
    require_contiguous("token_ids", token_ids)
    require_shape("table", table, None, None)
    require_dtype("table", table, DTYPES)
    require_rows("table", table)
    return _launch(token_ids, table, 1.0 if scale is None else scale)
