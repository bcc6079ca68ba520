"""Penalties on the device: repetition, frequency and presence, for the rows that ask for them.

The same as those of `backend.sampling.logits_processors`.
"""

from collections.abc import Mapping, Sequence

import torch

from services.generator.backend.gpu.sampling.token_counts import DeviceTokenCounts, add_ones
from services.generator.backend.gpu.triton.sampling.penalties import apply_penalties
from services.generator.engine.draw import Draw
from services.generator.engine.request import Request


class Penalties:
    """Gathers the rows that are penalised with their counts, and writes them back."""

    def __init__(self, device: torch.device, vocab_size: int, num_slots: int) -> None:
        """`num_slots` is how many requests are expected at first to penalise."""
        self._vocab_size = vocab_size
        self._counts = DeviceTokenCounts(device, vocab_size, num_slots)

    def columns(self, draws: Sequence[Draw]) -> dict[str, torch.Tensor]:
        """Return what `apply_` needs of these draws, in host memory; none where it has no work."""
        rows = [row for row, draw in enumerate(draws) if draw.params.penalizes]
        if not rows:
            return {}
        params = [draws[row].params for row in rows]
        # after drafts a row has these in its output too
        drafted = [
            line * self._vocab_size + token_id
            for line, row in enumerate(rows)
            for token_id in draws[row].drafts
        ]
        slots = [self._counts.index(draws[row].request) for row in rows]
        return {
            **self._counts.columns(_penalized(draws)),
            "penalized": torch.tensor(rows),
            "slots": torch.tensor(slots),
            "drafted": torch.tensor(drafted, dtype=torch.int64),
            "repetition": torch.tensor([p.repetition_penalty for p in params]),
            "frequency": torch.tensor([p.frequency_penalty for p in params]),
            "presence": torch.tensor([p.presence_penalty for p in params]),
        }

    def apply_(
        self, logits: torch.Tensor, draws: Sequence[Draw], sent: Mapping[str, torch.Tensor]
    ) -> None:
        """Penalise the draws' rows of `logits` [S, vocab] float32."""
        if "penalized" not in sent:
            return
        self._counts.catch_up(_penalized(draws), sent)
        counts = self._counts.counts.index_select(0, sent["slots"])
        prompts = self._counts.prompts.index_select(0, sent["slots"])
        add_ones(counts, sent["drafted"])
        some = logits.index_select(0, sent["penalized"])
        penalties = sent["repetition"], sent["frequency"], sent["presence"]
        apply_penalties(some, counts, prompts, *penalties)
        logits.index_copy_(0, sent["penalized"], some)

    def __repr__(self) -> str:
        return f"Penalties({self._counts!r})"


def _penalized(draws: Sequence[Draw]) -> dict[Request, None]:
    """Return the distinct requests that penalise; a request with drafts has several draws."""
    return dict.fromkeys(draw.request for draw in draws if draw.params.penalizes)
