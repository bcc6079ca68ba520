"""Token sampling by the Gumbel-max trick: one per row of logits, whatever else is in the batch."""

import torch
import triton
import triton.language as tl

from services.generator.backend.gpu.triton.sampling.sampling_bounds import sampling_bounds
from services.generator.backend.gpu.triton.sampling.vocabulary import (
    require_logits,
    require_per_row,
    tile_and_warps,
)

# of the lowest of 32 random bits, and the largest share below 1
STEP = tl.constexpr(2.0**-32)
BELOW_ONE = tl.constexpr(1.0 - 2.0**-24)


@triton.jit
def gumbel(seed, position, start, BV: tl.constexpr):
    """Return Gumbel noise of the BV tokens from start on; four share a counter of Philox."""
    o_quad = start // 4 + tl.arange(0, BV // 4)
    low = position.to(tl.uint32)
    high = (position >> 32).to(tl.uint32)
    b_0, b_1, b_2, b_3 = tl.philox(seed, o_quad, low, high, 0)
    # [BV]
    b_bits = tl.interleave(tl.interleave(b_0, b_2), tl.interleave(b_1, b_3))
    b_share = tl.minimum(b_bits.to(tl.uint32).to(tl.float32) * STEP + STEP / 2, BELOW_ONE)
    # -log(1 - share): small values decide who wins, and a logarithm near 1 would round them off
    b_series = b_share * (1.0 + b_share * (0.5 + b_share * 0.33333333))
    b_wait = tl.where(b_share < 0.0078125, b_series, -tl.log(1.0 - b_share))
    return -tl.log(b_wait)


@triton.jit
def sample_tiles_kernel(
    p_logits,  # [S, V], rows s_logits apart
    p_temperature,  # [S] float32
    p_low,  # [S] float32
    p_high,  # [S] float32
    p_tie_end,  # [S] int32
    p_seeds,  # [S] int64
    p_positions,  # [S] int64
    p_scores,  # [S, tiles] float32
    p_ids,  # [S, tiles] int32
    s_logits,
    V,
    BV: tl.constexpr,
):
    i_s = tl.program_id(0).to(tl.int64)
    i_v = tl.program_id(1)
    temperature = tl.load(p_temperature + i_s)
    low = tl.load(p_low + i_s)
    high = tl.load(p_high + i_s)
    tie_end = tl.load(p_tie_end + i_s)
    o_v = i_v * BV + tl.arange(0, BV)
    # [BV]
    p_row = p_logits + i_s * s_logits
    b_score = tl.load(p_row + o_v, mask=o_v < V, other=float("-inf")).to(tl.float32)
    m_kept = (b_score >= high) | ((b_score >= low) & (o_v < tie_end))
    # 2 where something is NaN, 1 where something is kept
    state = tl.max(tl.where(b_score != b_score, 2, m_kept.to(tl.int32)), axis=0)
    if (temperature > 0.0) & (state == 1):
        # the argmax is that of logits / temperature + noise
        seed = tl.load(p_seeds + i_s)
        position = tl.load(p_positions + i_s)
        b_score += temperature * gumbel(seed, position, i_v * BV, BV)
    b_score = tl.where(m_kept, b_score, float("-inf"))
    score, i_best = tl.max(b_score, axis=0, return_indices=True)
    o_out = i_s * tl.num_programs(1) + i_v
    tl.store(p_scores + o_out, tl.where(state == 2, float("nan"), score))
    tl.store(p_ids + o_out, i_v * BV + i_best)


@triton.jit
def sample_rows_kernel(
    p_scores,  # [S, C] float32
    p_ids,  # [S, C] int32
    p_tokens,  # [S] int64
    C,
    BC: tl.constexpr,
):
    i_s = tl.program_id(0).to(tl.int64)
    o_c = tl.arange(0, BC)
    # [BC]
    b_score = tl.load(p_scores + i_s * C + o_c, mask=o_c < C, other=float("-inf"))
    is_nan = tl.max((b_score != b_score).to(tl.int32), axis=0) > 0
    b_score = tl.where(b_score != b_score, float("-inf"), b_score)
    score, i_best = tl.max(b_score, axis=0, return_indices=True)
    token = tl.load(p_ids + i_s * C + i_best).to(tl.int64)
    is_finite = (score > float("-inf")) & (score < float("inf")) & (is_nan == 0)
    tl.store(p_tokens + i_s, tl.where(is_finite, token, -1))


def sample_tile(vocab: int) -> tuple[int, int]:
    """Return the tile and the warps; small ones most often keep nothing, and draw no noise."""
    return tile_and_warps(vocab, largest=1024, per_thread=16)


def _launch(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    bounds: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    seeds: torch.Tensor,
    positions: torch.Tensor,
) -> torch.Tensor:
    rows, vocab = logits.shape
    tile, warps = sample_tile(vocab)
    tiles = triton.cdiv(vocab, tile)
    scores = torch.empty(rows, tiles, dtype=torch.float32, device=logits.device)
    ids = torch.empty(rows, tiles, dtype=torch.int32, device=logits.device)
    tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
    if rows:
        sample_tiles_kernel[(rows, tiles)](
            *(logits, temperature, *bounds, seeds, positions, scores, ids),
            *(logits.stride(0), vocab),
            BV=tile,
            num_warps=warps,
        )
        row_tile = triton.next_power_of_2(tiles)
        sample_rows_kernel[(rows,)](scores, ids, tokens, tiles, BC=row_tile, num_warps=1)
    return tokens


def sample(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
    seeds: torch.Tensor,
    positions: torch.Tensor,
) -> torch.Tensor:
    """Return int64 token ids [S], -1 for rows that hold NaN or have no finite best logit.

    `logits` [S, V] of float32, float16 or bfloat16, rows may lie apart. One value per row, on the
    same device: `temperature` float32 (0 takes the largest logit, the lowest id of equals), `top_k`
    int32 (0 is off), `top_p` float32 (1 is off), `min_p` float32 (0 is off), `seeds` int64,
    `positions` int64, the token's index in its output. `sampling_bounds` tells what the filters
    leave. Drawn by the Gumbel-max trick (arXiv:1411.0030) with numbers of Philox, a function of
    seed, position and token id. Three launches, no wait. Raises KernelError.
    """
    require_logits(logits)
    require_per_row("seeds", seeds, logits.shape[0], torch.int64)
    require_per_row("positions", positions, logits.shape[0], torch.int64)
    bounds = sampling_bounds(logits, temperature, top_k, top_p, min_p)
    return _launch(logits, temperature, bounds, seeds, positions)
