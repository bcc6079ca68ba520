"""Penalties on the logits of tokens that occurred."""

import torch
import triton
import triton.language as tl

from services.generator.backend.gpu.triton.checks import require_dtype, require_rows, require_shape
from services.generator.backend.gpu.triton.sampling.vocabulary import (
    require_per_row,
    tile_and_warps,
)


@triton.jit
def apply_penalties_kernel(
    p_logits,  # [S, V] float32, rows s_logits apart
    p_counts,  # [S, V] int32, rows s_counts apart
    p_prompt,  # [S, V] uint8, rows s_prompt apart
    p_repetition,  # [S] float32
    p_frequency,  # [S] float32
    p_presence,  # [S] float32
    s_logits,
    s_counts,
    s_prompt,
    V,
    BV: tl.constexpr,
):
    i_s = tl.program_id(0).to(tl.int64)
    repetition = tl.load(p_repetition + i_s)
    frequency = tl.load(p_frequency + i_s)
    presence = tl.load(p_presence + i_s)
    if (repetition != 1.0) | (frequency != 0.0) | (presence != 0.0):
        o_v = tl.program_id(1) * BV + tl.arange(0, BV)
        m_v = o_v < V
        # [BV]
        b_count = tl.load(p_counts + i_s * s_counts + o_v, mask=m_v, other=0)
        # only the repetition penalty looks at the prompt
        prompt_end = tl.where(repetition != 1.0, V, 0)
        b_prompt = tl.load(p_prompt + i_s * s_prompt + o_v, mask=o_v < prompt_end, other=0)
        m_seen = (b_count > 0) | (b_prompt != 0)
        p_row = p_logits + i_s * s_logits + o_v
        # [BV]
        b_logits = tl.load(p_row, mask=m_seen, other=0.0)
        b_scaled = tl.where(b_logits > 0.0, b_logits / repetition, b_logits * repetition)
        b_charge = frequency * b_count.to(tl.float32) + tl.where(b_count > 0, presence, 0.0)
        tl.store(p_row, b_scaled - b_charge, mask=m_seen)


def penalties_tile(vocab: int) -> tuple[int, int]:
    """Return the tile and the warps of a program that reads its tile once."""
    return tile_and_warps(vocab, largest=4096, per_thread=16)


def _launch(
    logits: torch.Tensor,
    token_counts: torch.Tensor,
    prompt_mask: torch.Tensor,
    repetition: torch.Tensor,
    frequency: torch.Tensor,
    presence: torch.Tensor,
) -> None:
    rows, vocab = logits.shape
    if logits.numel():
        tile, warps = penalties_tile(vocab)
        apply_penalties_kernel[(rows, triton.cdiv(vocab, tile))](
            *(logits, token_counts, prompt_mask.view(torch.uint8)),
            *(repetition, frequency, presence),
            *(logits.stride(0), token_counts.stride(0), prompt_mask.stride(0), vocab),
            BV=tile,
            num_warps=warps,
        )


def apply_penalties(
    logits: torch.Tensor,
    token_counts: torch.Tensor,
    prompt_mask: torch.Tensor,
    repetition: torch.Tensor,
    frequency: torch.Tensor,
    presence: torch.Tensor,
) -> None:
    """Penalise in place, in `logits` float32 [S, V], the tokens that occurred.

    `token_counts` int32 [S, V] says how often each token is in the output, `prompt_mask` bool or
    uint8 [S, V] whether it is in the prompt; rows of these three may lie apart. Per row, float32
    [S]: `repetition` (1 is off, CTRL, arXiv:1909.05858) divides a positive logit and multiplies
    another; then `frequency` (0 is off) is taken off for each time the output has the token, and
    `presence` (0 is off) once. Raises KernelError.
    """
    require_shape("logits", logits, None, None)
    for name, tensor, dtypes in (
        ("logits", logits, {torch.float32}),
        ("token_counts", token_counts, {torch.int32}),
        ("prompt_mask", prompt_mask, {torch.bool, torch.uint8}),
    ):
        require_shape(name, tensor, *logits.shape)
        require_dtype(name, tensor, dtypes)
        require_rows(name, tensor)
    require_per_row("repetition", repetition, logits.shape[0], torch.float32)
    require_per_row("frequency", frequency, logits.shape[0], torch.float32)
    require_per_row("presence", presence, logits.shape[0], torch.float32)
    _launch(logits, token_counts, prompt_mask, repetition, frequency, presence)
