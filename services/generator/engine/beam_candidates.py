"""The likeliest continuations of beams from their logits, without a log-softmax over all tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from services.generator.engine.beam_search import Candidate


def beam_candidates(
    logits: torch.Tensor, totals: torch.Tensor, counts: Sequence[int]
) -> list[list[Candidate]]:
    """Return up to `counts[row]` candidates per row of `logits` [R, vocab], best first.

    `totals` [R, 1] are the logsumexp of the logits before their edits, so that a ban leaves the
    other tokens' probabilities as the model gave them. Banned tokens are no candidates.
    """
    values, token_ids = logits.topk(min(max(counts), logits.shape[1]), dim=1)
    logprobs = (values.float() - totals).tolist()
    return [
        [
            Candidate(token_id, logprob)
            for token_id, logprob in zip(row_ids[:count], row_logprobs[:count], strict=True)
            if logprob > float("-inf")
        ]
        for row_ids, row_logprobs, count in zip(token_ids.tolist(), logprobs, counts, strict=True)
    ]
