"""Log-probabilities of chosen tokens and of the best ones, from logits, without a log-softmax."""

import torch
import triton
import triton.language as tl

from services.generator.backend.gpu.triton.checks import KernelError
from services.generator.backend.gpu.triton.sampling.sampling_bounds import SHIFTS
from services.generator.backend.gpu.triton.sampling.top_k_top_p import float_to_key, key_to_float
from services.generator.backend.gpu.triton.sampling.vocabulary import (
    require_logits,
    require_per_row,
    tile_and_warps,
)

MAX_TOP = 32
# below every candidate
TAKEN = tl.constexpr(-(2**63))


@triton.jit
def logprobs_tiles_kernel(
    p_logits,  # [S, V], rows s_logits apart
    p_token_ids,  # [S] int64
    p_best,  # [S, tiles] float32
    p_sum,  # [S, tiles] float32
    p_above,  # [S, tiles] int32
    p_candidates,  # [S, tiles, N] int64
    s_logits,
    V,
    N: tl.constexpr,
    SHIFT: tl.constexpr,
    BV: tl.constexpr,
):
    i_s = tl.program_id(0).to(tl.int64)
    i_v = tl.program_id(1)
    o_v = i_v * BV + tl.arange(0, BV)
    m_v = o_v < V
    p_row = p_logits + i_s * s_logits
    # [BV]
    b_logits = tl.load(p_row + o_v, mask=m_v, other=float("-inf")).to(tl.float32)
    token = tl.load(p_token_ids + i_s)
    is_token = (token >= 0) & (token < V)
    chosen = tl.load(p_row + token, mask=is_token, other=0.0).to(tl.float32)
    best = tl.max(b_logits, axis=0)
    # a tile of nothing but -inf weighs nothing
    origin = tl.where(best == float("-inf"), 0.0, best)
    o_out = i_s * tl.num_programs(1) + i_v
    tl.store(p_best + o_out, best)
    tl.store(p_sum + o_out, tl.sum(tl.exp(b_logits - origin), axis=0))
    tl.store(p_above + o_out, tl.sum((b_logits > chosen).to(tl.int32), axis=0))
    if N > 0:
        # ordered by logit, and of equal logits the lower id first; half as wide where that suffices
        b_key = float_to_key(b_logits, SHIFT)
        if SHIFT > 0:
            b_key = b_key.to(tl.int32)
        b_left = b_key * BV + (BV - 1 - tl.arange(0, BV))
        none = tl.full([], TAKEN if SHIFT == 0 else -(2**31), b_left.dtype)
        b_left = tl.where(m_v, b_left, none)
        for i_n in range(N):
            first = tl.max(b_left, axis=0)
            b_left = tl.where(b_left == first, none, b_left)
            i_left = first & (BV - 1)
            key = float_to_key(key_to_float(((first - i_left) // BV).to(tl.int64), SHIFT), 0)
            candidate = (key << 32) | (0x7FFFFFFF - (i_v * BV + BV - 1 - i_left)).to(tl.int64)
            tl.store(p_candidates + o_out * N + i_n, tl.where(first == none, TAKEN, candidate))


@triton.jit
def logprobs_rows_kernel(
    p_logits,  # [S, V], rows s_logits apart
    p_token_ids,  # [S] int64
    p_best,  # [S, C] float32
    p_sum,  # [S, C] float32
    p_above,  # [S, C] int32
    p_candidates,  # [S, C, N] int64
    p_chosen,  # [S] float32
    p_rank,  # [S] int32
    p_top_values,  # [S, N] float32
    p_top_ids,  # [S, N] int64
    s_logits,
    V,
    C,
    N: tl.constexpr,
    BC: tl.constexpr,
    BN: tl.constexpr,
):
    i_s = tl.program_id(0).to(tl.int64)
    o_c = tl.arange(0, BC)
    m_c = o_c < C
    # [BC]
    b_best = tl.load(p_best + i_s * C + o_c, mask=m_c, other=float("-inf"))
    b_sum = tl.load(p_sum + i_s * C + o_c, mask=m_c, other=0.0)
    b_above = tl.load(p_above + i_s * C + o_c, mask=m_c, other=0)
    best = tl.max(b_best, axis=0)
    total = best + tl.log(tl.sum(b_sum * tl.exp(b_best - best), axis=0))
    token = tl.load(p_token_ids + i_s)
    is_token = (token >= 0) & (token < V)
    p_token = p_logits + i_s * s_logits + token
    chosen = tl.load(p_token, mask=is_token, other=float("nan")).to(tl.float32)
    tl.store(p_chosen + i_s, chosen - total)
    tl.store(p_rank + i_s, tl.where(is_token, tl.sum(b_above, axis=0) + 1, 0))
    if N > 0:
        o_n = tl.arange(0, BN)
        # [BN]
        p_row = p_candidates + i_s * C * N
        b_left = tl.load(p_row + o_n, mask=o_n < C * N, other=TAKEN)
        for i_n in range(N):
            candidate = tl.max(b_left, axis=0)
            b_left = tl.where(b_left == candidate, TAKEN, b_left)
            tl.store(p_top_values + i_s * N + i_n, key_to_float(candidate >> 32, 0) - total)
            tl.store(p_top_ids + i_s * N + i_n, 0x7FFFFFFF - (candidate & 0x7FFFFFFF))


def logprobs_tile(vocab: int) -> tuple[int, int]:
    """Return the tile and the warps; a smaller tile's best are found sooner."""
    return tile_and_warps(vocab, largest=2048, per_thread=16)


def row_warps(width: int) -> int:
    """Return the warps for a row of so many candidates."""
    return min(8, max(1, width // 256))


def _launch(
    logits: torch.Tensor, token_ids: torch.Tensor, num_top: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    rows, vocab = logits.shape
    tile, warps = logprobs_tile(vocab)
    tiles = triton.cdiv(vocab, tile)
    chosen = logits.new_empty(rows, dtype=torch.float32)
    rank = logits.new_empty(rows, dtype=torch.int32)
    top_values = logits.new_empty(rows, num_top, dtype=torch.float32)
    top_ids = logits.new_empty(rows, num_top, dtype=torch.int64)
    best = logits.new_empty(rows, tiles, dtype=torch.float32)
    above = logits.new_empty(rows, tiles, dtype=torch.int32)
    candidates = logits.new_empty(rows, tiles, num_top, dtype=torch.int64)
    parts = (best, torch.empty_like(best), above, candidates)
    if rows:
        logprobs_tiles_kernel[(rows, tiles)](
            *(logits, token_ids, *parts, logits.stride(0), vocab),
            N=num_top,
            SHIFT=SHIFTS[logits.dtype],
            BV=tile,
            num_warps=warps,
        )
        width = triton.next_power_of_2(max(1, tiles * num_top))
        logprobs_rows_kernel[(rows,)](
            *(logits, token_ids, *parts, chosen, rank, top_values, top_ids),
            *(logits.stride(0), vocab, tiles),
            N=num_top,
            BC=triton.next_power_of_2(tiles),
            BN=width,
            num_warps=row_warps(width),
        )
    return chosen, rank, top_values, top_ids


def logprobs(
    logits: torch.Tensor, token_ids: torch.Tensor, num_top: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return `chosen` and `rank` [S], `top_values` and `top_ids` [S, N].

    `logits` [S, V] of float32, float16 or bfloat16, rows may lie apart; `token_ids` int64 [S];
    `num_top` is N, from 0 to 32. `chosen` (float32) is the log-probability of the row's token and
    `rank` (int32) one more than the tokens with larger logits, or NaN and 0 for an id outside the
    vocabulary. The top (float32, int64) come best first, of equals the lowest id. A row with NaN
    gets NaN. Raises KernelError.
    """
    require_logits(logits)
    require_per_row("token_ids", token_ids, logits.shape[0], torch.int64)
    if not 0 <= num_top <= min(MAX_TOP, logits.shape[1]):
        raise KernelError("num_top", f"is {num_top}, not from 0 to {MAX_TOP} and the vocabulary")
    return _launch(logits, token_ids, num_top)
