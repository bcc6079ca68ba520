"""Log-probabilities of given tokens from raw logits, without a log-softmax over the vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from services.generator.engine.token_logprobs import TokenLogprobs

# Rows that are widened to float32 at once, where a long prompt has thousands.
_SLICE_ROWS = 128


def token_logprobs(
    logits: torch.Tensor, token_ids: Sequence[int], num_alternatives: Sequence[int]
) -> list[TokenLogprobs]:
    """Describe one token per row of `logits` [R, vocab], with as many alternatives as it asks for.

    Raw logits as in vLLM's default mode; a row that is not finite gives a value that is not.
    """
    found: list[TokenLogprobs] = []
    for first in range(0, len(token_ids), _SLICE_ROWS):
        part = slice(first, first + _SLICE_ROWS)
        found += _described(logits[part].float(), token_ids[part], num_alternatives[part])
    return found


def _described(
    logits: torch.Tensor, token_ids: Sequence[int], num_alternatives: Sequence[int]
) -> Iterator[TokenLogprobs]:
    # a single row would be summed in parts, by several threads, to other bits than among others
    summed = logits if len(logits) > 1 else torch.cat((logits, logits))
    totals = summed.logsumexp(dim=1, keepdim=True)[: len(logits)]
    chosen = logits.gather(1, torch.tensor(token_ids).unsqueeze(1))
    ranks = (logits > chosen).sum(dim=1).add_(1).tolist()
    values, candidates = logits.topk(min(max(num_alternatives), logits.shape[1]), dim=1)
    logprobs = (chosen - totals).squeeze(1).tolist()
    top_logprobs, top_token_ids = (values - totals).tolist(), candidates.tolist()
    for row, count in enumerate(num_alternatives):
        yield TokenLogprobs(
            token_ids[row],
            logprobs[row],
            ranks[row],
            tuple(top_token_ids[row][:count]),
            tuple(top_logprobs[row][:count]),
        )
