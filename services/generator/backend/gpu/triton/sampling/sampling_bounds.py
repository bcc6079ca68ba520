"""Min-p, top-k and top-p: what they leave of each row, as bounds on its logits."""

import torch
import triton
import triton.language as tl

from services.generator.backend.gpu.triton.sampling.top_k_top_p import (
    KEPT,
    keep_best,
    top_k_top_p_bounds,
)
from services.generator.backend.gpu.triton.sampling.vocabulary import (
    require_logits,
    require_per_row,
    tile_and_warps,
)

# mantissa bits that float32 has and the logits have not
SHIFTS = {torch.float32: 0, torch.float16: 13, torch.bfloat16: 16}


@triton.jit
def sampling_bounds_kernel(
    p_logits,  # [S, V], rows s_logits apart
    p_temperature,  # [S] float32
    p_top_k,  # [S] int32
    p_top_p,  # [S] float32
    p_min_p,  # [S] float32
    p_kept,  # [S, KEPT, BV]
    p_low,  # [S] float32
    p_high,  # [S] float32
    p_tie_end,  # [S] int32
    s_logits,
    V,
    SHIFT: tl.constexpr,
    BV: tl.constexpr,
):
    i_s = tl.program_id(0).to(tl.int64)
    temperature = tl.load(p_temperature + i_s)
    top_k = tl.load(p_top_k + i_s)
    top_p = tl.load(p_top_p + i_s)
    min_p = tl.load(p_min_p + i_s)
    low = tl.full([], float("-inf"), tl.float32)
    high = tl.full([], float("inf"), tl.float32)
    tie_end = tl.zeros([], tl.int32) + V
    is_ranked = ((top_k > 0) & (top_k < V)) | (top_p < 1.0)
    if (temperature > 0.0) & (is_ranked | (min_p > 0.0)):
        p_row = p_logits + i_s * s_logits
        p_kept += i_s * KEPT * BV
        best, rest = keep_best(p_row, p_kept, V, BV)
        # a row without a finite best fails when it is drawn from
        if (best > float("-inf")) & (best < float("inf")):
            # where exp((logit - best) / temperature) is min_p
            low = best + temperature * tl.log(min_p)
            if is_ranked:
                low, high, tie_end = top_k_top_p_bounds(
                    p_row, p_kept, V, best, rest, temperature, low, top_k, top_p, SHIFT, BV
                )
    tl.store(p_low + i_s, low)
    tl.store(p_high + i_s, high)
    tl.store(p_tie_end + i_s, tie_end)


def bounds_tile(vocab: int) -> tuple[int, int]:
    """Return the tile and the warps: one program reads a row many times."""
    return tile_and_warps(vocab, largest=4096, per_thread=8)


def _launch(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rows, vocab = logits.shape
    low = torch.empty(rows, dtype=torch.float32, device=logits.device)
    high = torch.empty_like(low)
    tie_end = torch.empty(rows, dtype=torch.int32, device=logits.device)
    if rows:
        tile, warps = bounds_tile(vocab)
        kept = logits.new_empty(rows, KEPT.value, tile)
        sampling_bounds_kernel[(rows,)](
            *(logits, temperature, top_k, top_p, min_p, kept, low, high, tie_end),
            *(logits.stride(0), vocab),
            SHIFT=SHIFTS[logits.dtype],
            BV=tile,
            num_warps=warps,
        )
    return low, high, tie_end


def sampling_bounds(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return `low`, `high` (float32 [S]) and `tie_end` (int32 [S]): what each row's filters leave.

    A token is left if its logit is at least `high`, or at least `low` with an id below `tie_end`.
    The filters are min_p, top_k and top_p in this order, on the distribution at the row's
    temperature, each a share of what those before left; of equal logits at a cut only the lower
    ids are left, as many as are asked for. Rows that are greedy (temperature 0) or without a
    finite best keep all. Arguments as in `sample`. Raises KernelError.
    """
    require_logits(logits)
    rows = logits.shape[0]
    require_per_row("temperature", temperature, rows, torch.float32)
    require_per_row("top_k", top_k, rows, torch.int32)
    require_per_row("top_p", top_p, rows, torch.float32)
    require_per_row("min_p", min_p, rows, torch.float32)
    return _launch(logits, temperature, top_k, top_p, min_p)
