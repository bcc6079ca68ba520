"""Probabilities of whole rows of logits at each row's temperature."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from services.generator.backend.gpu.triton.sampling.vocabulary import (
    require_logits,
    require_per_row,
    tile_and_warps,
)

# in place of temperature 0: the nearest logit below the best already weighs nothing
COLDEST = tl.constexpr(1e-30)


@triton.jit
def softmax_tiles_kernel(
    p_logits,  # [S, V], rows s_logits apart
    p_temperature,  # [S] float32
    p_best,  # [S, tiles] float32
    p_sum,  # [S, tiles] float32
    s_logits,
    V,
    BV: tl.constexpr,
):
    i_s = tl.program_id(0).to(tl.int64)
    i_v = tl.program_id(1)
    temperature = tl.maximum(tl.load(p_temperature + i_s), COLDEST)
    o_v = i_v * BV + tl.arange(0, BV)
    p_row = p_logits + i_s * s_logits
    # [BV]
    b_logits = tl.load(p_row + o_v, mask=o_v < V, other=float("-inf")).to(tl.float32)
    best = tl.max(b_logits, axis=0)
    # a tile of nothing but -inf weighs nothing
    origin = tl.where(best == float("-inf"), 0.0, best)
    b_weight = tl.exp((b_logits - origin) / temperature)
    o_out = i_s * tl.num_programs(1) + i_v
    tl.store(p_best + o_out, best)
    tl.store(p_sum + o_out, tl.sum(b_weight, axis=0))


@triton.jit
def softmax_kernel(
    p_logits,  # [S, V], rows s_logits apart
    p_temperature,  # [S] float32
    p_best,  # [S, C] float32
    p_sum,  # [S, C] float32
    p_out,  # [S, V] float32, contiguous
    s_logits,
    V,
    C,
    BV: tl.constexpr,
    BC: tl.constexpr,
):
    i_s = tl.program_id(0).to(tl.int64)
    i_v = tl.program_id(1)
    temperature = tl.maximum(tl.load(p_temperature + i_s), COLDEST)
    o_c = tl.arange(0, BC)
    m_c = o_c < C
    # [BC]
    b_best = tl.load(p_best + i_s * C + o_c, mask=m_c, other=float("-inf"))
    b_sum = tl.load(p_sum + i_s * C + o_c, mask=m_c, other=0.0)
    best = tl.max(b_best, axis=0)
    total = tl.sum(b_sum * tl.exp((b_best - best) / temperature), axis=0)
    o_v = i_v * BV + tl.arange(0, BV)
    m_v = o_v < V
    # [BV]
    b_logits = tl.load(p_logits + i_s * s_logits + o_v, mask=m_v, other=0.0).to(tl.float32)
    b_out = tl.exp((b_logits - best) / temperature) / total
    tl.store(p_out + i_s * V + o_v, b_out, mask=m_v)


def softmax_tile(vocab: int) -> tuple[int, int]:
    """Return the tile and the warps of both kernels."""
    return tile_and_warps(vocab, largest=4096, per_thread=16)


def _launch(logits: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    rows, vocab = logits.shape
    out = torch.empty(rows, vocab, dtype=torch.float32, device=logits.device)
    tile, warps = softmax_tile(vocab)
    tiles = triton.cdiv(vocab, tile)
    best = torch.empty(rows, tiles, dtype=torch.float32, device=logits.device)
    sums = torch.empty_like(best)
    if rows:
        softmax_tiles_kernel[(rows, tiles)](
            *(logits, temperature, best, sums, logits.stride(0), vocab),
            BV=tile,
            num_warps=warps,
        )
        softmax_kernel[(rows, tiles)](
            *(logits, temperature, best, sums, out, logits.stride(0), vocab, tiles),
            BV=tile,
            BC=triton.next_power_of_2(tiles),
            num_warps=warps,
        )
    return out


def softmax(logits: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    """Return float32 probabilities [S, V], `softmax(logits / temperature)` of each row.

    `logits` [S, V] of float32, float16 or bfloat16, rows may lie apart; `temperature` float32 [S],
    where 0 shares everything among the largest logits. A row with NaN or +inf, or of nothing but
    -inf, becomes NaN. Each tile tells its best and its sum, which are then brought together
    (arXiv:1805.02867). Raises KernelError.
    """
    require_logits(logits)
    require_per_row("temperature", temperature, logits.shape[0], torch.float32)
    return _launch(logits, temperature)
