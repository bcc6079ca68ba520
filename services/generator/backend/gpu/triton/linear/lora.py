"""LoRA shrink and expand (arXiv:2106.09685), with an adapter for each row (arXiv:2310.18547).

Rows are sorted by adapter on the device, once for all layers of a step if the caller keeps that;
a program then takes 16 rows of one adapter, at any batch size.
"""

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
from services.generator.backend.gpu.triton.moe.moe_sort import SortedRows, sort_by_expert

DTYPES = frozenset({torch.float32, torch.float16, torch.bfloat16})
RANKS = (8, 16, 32, 64)
ROW_TILE = 16
CHUNK = 512  # K is summed in chunks, and these in their order, by one program or by several
SPLIT_TOKENS = 2048  # up to so many tokens, a program takes one chunk
SUM_TILE = 256


@triton.jit(do_not_specialize=["S", "T"])
def lora_shrink_kernel(
    p_x,  # [T, K], rows s_x apart
    p_a,  # [L, R, K] contiguous
    p_pairs,  # [S]
    p_adapters,  # [ceil(S / BM)]
    p_parts,  # [programs of a row tile, T, R]
    s_x,
    S,
    T,
    K,
    CHUNKS,  # to a program
    R: tl.constexpr,
    CHUNK: tl.constexpr,
    BM: tl.constexpr,
    BK: tl.constexpr,
    BR: tl.constexpr,
):
    i_m = tl.program_id(0)
    i_s = tl.program_id(1)
    o_m = i_m * BM + tl.arange(0, BM)
    o_r = tl.arange(0, BR)
    o_k = tl.arange(0, BK)
    m_r = o_r < R
    b_row = tl.load(p_pairs + o_m, mask=o_m < S, other=-1).to(tl.int64)  # [BM]
    m_m = b_row >= 0
    b_adapter = tl.load(p_adapters + i_m).to(tl.int64)
    p_xs = p_x + b_row[:, None] * s_x + o_k[None, :]
    p_as = p_a + (b_adapter * R + o_r)[None, :] * K + o_k[:, None]
    b_sum = tl.zeros([BM, BR], tl.float32)
    # without an adapter nothing is summed, and the rows become zero
    i_last = tl.where(b_adapter >= 0, tl.minimum((i_s + 1) * CHUNKS, tl.cdiv(K, CHUNK)), 0)
    for i_c in range(i_s * CHUNKS, i_last):
        b_chunk = tl.zeros([BM, BR], tl.float32)
        for i_k in range(i_c * CHUNK, tl.minimum((i_c + 1) * CHUNK, K), BK):
            m_k = i_k + o_k < K
            # [BM, BK], [BK, BR]
            b_x = tl.load(p_xs + i_k, mask=m_m[:, None] & m_k[None, :], other=0.0)
            b_a = tl.load(p_as + i_k, mask=m_k[:, None] & m_r[None, :], other=0.0)
            b_chunk = tl.dot(b_x, b_a, b_chunk, input_precision="ieee")
        b_sum += b_chunk
    p_part = p_parts + (i_s.to(tl.int64) * T + b_row)[:, None] * R + o_r[None, :]
    tl.store(p_part, b_sum, mask=m_m[:, None] & m_r[None, :])


@triton.jit
def sum_parts_kernel(
    p_parts,  # [PARTS, M] contiguous
    p_out,  # [M]
    M,
    PARTS: tl.constexpr,
    BM: tl.constexpr,
):
    o_m = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    m_m = o_m < M
    b_sum = tl.zeros([BM], tl.float32)
    for _ in tl.static_range(PARTS):
        b_sum += tl.load(p_parts + o_m, mask=m_m, other=0.0)  # [BM]
        p_parts += M
    tl.store(p_out + o_m, b_sum, mask=m_m)


@triton.jit(do_not_specialize=["S"])
def lora_expand_add_kernel(
    p_y,  # [T, N], rows s_y apart
    p_shrunk,  # [T, R] contiguous
    p_b,  # [L, N, R] contiguous
    p_scale,  # [L]
    p_pairs,  # [S]
    p_adapters,  # [ceil(S / BM)]
    s_y,
    S,
    N,
    R: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BR: tl.constexpr,
):
    i_m = tl.program_id(0)
    b_adapter = tl.load(p_adapters + i_m).to(tl.int64)
    if b_adapter < 0:
        return
    o_m = i_m * BM + tl.arange(0, BM)
    o_n = tl.program_id(1) * BN + tl.arange(0, BN)
    o_r = tl.arange(0, BR)
    m_n = o_n < N
    m_r = o_r < R
    b_row = tl.load(p_pairs + o_m, mask=o_m < S, other=-1).to(tl.int64)  # [BM]
    m_m = b_row >= 0
    p_rows = p_shrunk + b_row[:, None] * R + o_r[None, :]
    p_bs = p_b + (b_adapter * N + o_n)[None, :] * R + o_r[:, None]
    # [BM, BR], [BR, BN]
    b_shrunk = tl.load(p_rows, mask=m_m[:, None] & m_r[None, :], other=0.0)
    b_b = tl.load(p_bs, mask=m_r[:, None] & m_n[None, :], other=0.0).to(tl.float32)
    # three products of 10-bit mantissas keep what was shrunk in float32
    b_add = tl.dot(b_shrunk, b_b, input_precision="tf32x3") * tl.load(p_scale + b_adapter)
    p_ys = p_y + b_row[:, None] * s_y + o_n[None, :]
    m_y = m_m[:, None] & m_n[None, :]
    b_y = tl.load(p_ys, mask=m_y, other=0.0).to(tl.float32)  # [BM, BN]
    tl.store(p_ys, (b_y + b_add).to(p_y.dtype.element_ty), mask=m_y)


def shrink_options(rank: int, dtype: torch.dtype) -> dict[str, int]:
    """Return tiles, warps and stages of the first product."""
    tiles = {"BM": ROW_TILE, "BK": 128 if dtype.itemsize == 2 else 32, "BR": max(16, rank)}
    return {**tiles, "CHUNK": CHUNK, "num_warps": 4, "num_stages": 3}


def expand_options(rank: int) -> dict[str, int]:
    """Return tiles and warps of the second product, which has no loop."""
    return {"BM": ROW_TILE, "BN": 128, "BR": max(16, rank), "num_warps": 4}


def _launch_shrink(x: torch.Tensor, a: torch.Tensor, rows: SortedRows) -> torch.Tensor:
    (tokens, width), rank = x.shape, a.shape[1]
    out = torch.empty(tokens, rank, dtype=torch.float32, device=x.device)
    if not tokens:
        return out
    chunks = max(1, triton.cdiv(width, CHUNK))
    each = 1 if tokens <= SPLIT_TOKENS else chunks
    parts = triton.cdiv(chunks, each)
    summed = out if parts == 1 else out.new_empty(parts, *out.shape)
    lora_shrink_kernel[(rows.expert_ids.numel(), parts)](
        *(x, a, rows.pair_ids, rows.expert_ids, summed),
        *(x.stride(0), rows.pair_ids.numel(), tokens, width, each),
        R=rank,
        **shrink_options(rank, x.dtype),
    )
    if parts > 1:
        grid = (triton.cdiv(out.numel(), SUM_TILE),)
        sum_parts_kernel[grid](summed, out, out.numel(), PARTS=parts, BM=SUM_TILE)
    return out


def lora_shrink(
    x: torch.Tensor, a: torch.Tensor, adapter_ids: torch.Tensor, rows: SortedRows | None = None
) -> torch.Tensor:
    """Return `x @ a[adapter].T` for each row, [T, R] in float32; zero where there is no adapter.

    `x` is [T, K] of float32, float16 or bfloat16, its rows may lie apart; `a` is [L, R, K] of the
    same dtype, contiguous, R 8, 16, 32 or 64; `adapter_ids` are int32 [T], an id outside 0 to L - 1
    is no adapter. `rows` are the ids sorted before, by `sort_by_adapter`. A row's result has the
    same bits whatever the other rows are. Raises KernelError.
    """
    require_shape("x", x, None, None)
    require_dtype("x", x, DTYPES)
    require_rows("x", x)
    require_shape("a", a, None, None, x.shape[1])
    require_dtype("a", a, {x.dtype})
    require_contiguous("a", a)
    _check_rank("a", a.shape[1])
    return _launch_shrink(x, a, _rows(adapter_ids, x.shape[0], a.shape[0], rows))


def lora_expand_add(
    y: torch.Tensor,
    shrunk: torch.Tensor,
    b: torch.Tensor,
    adapter_ids: torch.Tensor,
    scale: torch.Tensor,
    rows: SortedRows | None = None,
) -> None:
    """Add `scale[adapter] * shrunk @ b[adapter].T` to each row of `y`, in place.

    `y` is [T, N] of float32, float16 or bfloat16, its rows may lie apart; `shrunk` is float32
    [T, R]; `b` is [L, N, R] of the dtype of `y`; `scale` is float32 [L]; all contiguous. Rows
    without an adapter are not touched; the rest is as `lora_shrink` has it. Raises KernelError.
    """
    require_shape("y", y, None, None)
    require_dtype("y", y, DTYPES)
    require_rows("y", y)
    require_shape("b", b, None, y.shape[1], None)
    require_dtype("b", b, {y.dtype})
    _check_rank("b", b.shape[2])
    require_shape("shrunk", shrunk, y.shape[0], b.shape[2])
    require_dtype("shrunk", shrunk, {torch.float32})
    require_shape("scale", scale, b.shape[0])
    require_dtype("scale", scale, {torch.float32})
    for name, tensor in (("b", b), ("shrunk", shrunk), ("scale", scale)):
        require_contiguous(name, tensor)
    rows = _rows(adapter_ids, y.shape[0], b.shape[0], rows)
    if y.numel():
        options = expand_options(b.shape[2])
        grid = (rows.expert_ids.numel(), triton.cdiv(y.shape[1], options["BN"]))
        lora_expand_add_kernel[grid](
            *(y, shrunk, b, scale, rows.pair_ids, rows.expert_ids),
            *(y.stride(0), rows.pair_ids.numel(), y.shape[1]),
            R=b.shape[2],
            **options,
        )


def sort_by_adapter(adapter_ids: torch.Tensor, num_adapters: int) -> SortedRows:
    """Return the rows sorted by adapter, for all layers of a step. Raises KernelError."""
    require_shape("adapter_ids", adapter_ids, None)
    require_dtype("adapter_ids", adapter_ids, {torch.int32})
    require_contiguous("adapter_ids", adapter_ids)
    return sort_by_expert(adapter_ids[:, None], num_adapters, ROW_TILE)


def _rows(
    adapter_ids: torch.Tensor, tokens: int, num_adapters: int, rows: SortedRows | None
) -> SortedRows:
    require_shape("adapter_ids", adapter_ids, tokens)
    if rows is None:
        return sort_by_adapter(adapter_ids, num_adapters)
    sizes = (rows.num_tokens, rows.num_choices, rows.num_experts, rows.tile)
    if sizes != (tokens, 1, num_adapters, ROW_TILE):
        raise KernelError("rows", f"are of other sizes: {sizes}")
    return rows


def _check_rank(name: str, rank: int) -> None:
    if rank not in RANKS:
        raise KernelError(name, f"has rank {rank}, not one of: {', '.join(map(str, RANKS))}")
