"""Beam search candidates from the logits of beams, without a log-softmax over all tokens."""

from collections.abc import Sequence

import torch

from services.generator.engine.request import Request
from services.generator.engine.token_logprobs import Candidate


def beam_candidates(
    logits: torch.Tensor, totals: torch.Tensor, counts: Sequence[int]
) -> list[list[Candidate]]:
    """Return up to `counts[row]` candidates per row of `logits` [R, vocab], best first.

    `totals` [R, 1] are the logsumexp of the logits before the processors, so that a ban leaves the
    other tokens' probabilities as the model gave them. Banned tokens are no candidates.
    """
    return candidates(*likeliest(logits, totals, max(counts)), counts)


def num_candidates(beam: Request) -> int:
    """Return how many candidates a beam needs, so that a width of them are no stops."""
    return beam.params.beam_width + len(beam.stop_token_ids)


def likeliest(
    logits: torch.Tensor, totals: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the ids (int64) and log-probabilities (float32) [R, count] of each row's best."""
    values, token_ids = logits.topk(min(count, logits.shape[1]), dim=1)
    return token_ids, values.float() - totals


def candidates(
    token_ids: torch.Tensor, logprobs: torch.Tensor, counts: Sequence[int]
) -> list[list[Candidate]]:
    """Return the results of `likeliest` as plain values, up to `counts[row]` of each row."""
    return [
        [
            Candidate(token_id, logprob)
            for token_id, logprob in zip(row_ids[:count], row_logprobs[:count], strict=True)
            if logprob > float("-inf")
        ]
        for row_ids, row_logprobs, count in zip(
            token_ids.tolist(), logprobs.tolist(), counts, strict=True
        )
    ]
