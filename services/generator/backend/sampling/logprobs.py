"""Log-probabilities of given tokens from raw logits, without a log-softmax over the vocabulary."""

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
    logprobs: list[TokenLogprobs] = []
    for first in range(0, len(token_ids), _SLICE_ROWS):
        part = slice(first, first + _SLICE_ROWS)
        logprobs += _described(logits[part].float(), token_ids[part], num_alternatives[part])
    return logprobs


def _described(
    logits: torch.Tensor, token_ids: Sequence[int], num_alternatives: Sequence[int]
) -> Iterator[TokenLogprobs]:
    # a single row would be summed in parts, by several threads, to other bits than among others
    summed = logits if len(logits) > 1 else torch.cat((logits, logits))
    totals = summed.logsumexp(dim=1, keepdim=True)[: len(logits)]
    chosen = logits.gather(1, torch.tensor(token_ids).unsqueeze(1))
    ranks = (logits > chosen).sum(dim=1).add_(1).tolist()
    logprobs = (chosen - totals).squeeze(1).tolist()
    best = _best(logits, totals, num_alternatives)
    for row, (top_token_ids, top_logprobs) in enumerate(best):
        yield TokenLogprobs(token_ids[row], logprobs[row], ranks[row], top_token_ids, top_logprobs)


def _best(
    logits: torch.Tensor, totals: torch.Tensor, counts: Sequence[int]
) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
    """Return the ids and log-probabilities of each row's `counts` best tokens.

    One call per width, because which of equal tokens come first depends on how many are taken.
    """
    best: list[tuple[tuple[int, ...], tuple[float, ...]]] = [((), ())] * len(counts)
    for count in set(counts) - {0}:
        rows = [row for row, wanted in enumerate(counts) if wanted == count]
        some = logits if len(rows) == len(counts) else logits[rows]
        values, candidates = some.topk(min(count, logits.shape[1]), dim=1)
        logprobs = (values - totals[rows]).tolist()
        for row, ids, one in zip(rows, candidates.tolist(), logprobs, strict=True):
            best[row] = tuple(ids), tuple(one)
    return best
