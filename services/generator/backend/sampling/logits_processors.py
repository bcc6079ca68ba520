"""Logits processors: what changes logits before a token is sampled. Masks, bias, penalties.

The order is vLLM's: bans (what is not allowed, what is bad, stops before min_tokens) and bias, of
which none undoes another; then the repetition penalty; then frequency and presence. All of it is
sparse: a row pays for the tokens that its request names or has seen, other rows pay nothing.
"""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch

from services.generator.backend.sampling.token_counts import TokenCounts
from services.generator.backend.sampling.token_mask import TokenMask
from services.generator.engine.draw import Draw, held_back_stops
from services.generator.engine.request import Request


class LogitsProcessors:
    """Remembers per live request what its options need, and drops it with the request."""

    def __init__(self) -> None:
        self._masks: WeakKeyDictionary[Request, TokenMask] = WeakKeyDictionary()
        self._counts: WeakKeyDictionary[Request, TokenCounts] = WeakKeyDictionary()

    def apply(self, logits: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
        """Return `logits` [S, vocab] with every draw's changes, in place where they are float32.

        Narrower logits are widened first, because a small penalty would be lost in their rounding.
        """
        processed = [row for row, draw in enumerate(draws) if _needs_processing(draw)]
        if not processed:
            return logits
        logits = logits.float()
        for row in processed:
            if draws[row].params.masks_tokens:
                self._mask(draws[row].request).apply_(logits[row])
        rows, columns = held_back_stops(draws)
        if rows:
            logits[rows, columns] = float("-inf")
        self._penalize(logits, [row for row in processed if draws[row].params.penalizes], draws)
        return logits

    def _mask(self, request: Request) -> TokenMask:
        mask = self._masks.get(request)
        if mask is None:
            mask = self._masks[request] = TokenMask(request.params)
        return mask

    def _penalize(self, logits: torch.Tensor, rows: Sequence[int], draws: Sequence[Draw]) -> None:
        if not rows:
            return
        seen = [self._counted(draws[row].request).after(draws[row].drafts) for row in rows]
        sizes = torch.tensor([len(ids) for ids, _ in seen])
        columns = torch.cat([ids for ids, _ in seen])
        counts = torch.cat([counts for _, counts in seen])
        params = [draws[row].params for row in rows]

        def spread(values: list[float]) -> torch.Tensor:
            return torch.tensor(values).repeat_interleave(sizes)

        penalized_rows = torch.tensor(rows).repeat_interleave(sizes)
        logits[penalized_rows, columns] = penalized(
            logits[penalized_rows, columns],
            counts,
            repetition=spread([p.repetition_penalty for p in params]),
            frequency=spread([p.frequency_penalty for p in params]),
            presence=spread([p.presence_penalty for p in params]),
        )

    def _counted(self, request: Request) -> TokenCounts:
        counts = self._counts.get(request)
        if counts is None:
            # only the repetition penalty looks at the prompt
            weighs_prompt = request.params.repetition_penalty != 1.0
            prompt = request.token_ids[: request.num_prompt_tokens] if weighs_prompt else ()
            counts = self._counts[request] = TokenCounts(prompt)
        counts.catch_up(request.token_ids, request.num_prompt_tokens)
        return counts


def penalized(
    logits: torch.Tensor,
    counts: torch.Tensor,
    *,
    repetition: torch.Tensor,
    frequency: torch.Tensor,
    presence: torch.Tensor,
) -> torch.Tensor:
    """Return the logits of tokens that occurred, given how often the output has each; all [n].

    Repetition as in CTRL (Keskar et al. 2019, arXiv:1909.05858): away from a positive logit, and
    by the same factor down from a negative one. Frequency and presence as in OpenAI's API.
    """
    scaled = torch.where(logits > 0, logits / repetition, logits * repetition)
    return scaled - frequency * counts - presence * (counts > 0)


def _needs_processing(draw: Draw) -> bool:
    params = draw.params
    return params.masks_tokens or params.penalizes or draw.holds_back_stops
