"""A pass that was launched and not read yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from services.generator.backend.batch import Batch
from services.generator.backend.gpu.sampling.sampled_tokens import Chosen
from services.generator.engine.chunk import Chunk, ChunkResult
from services.generator.engine.request import Request
from services.generator.engine.results import Choices, results_of
from services.generator.engine.token_logprobs import TokenLogprobs


@dataclass(frozen=True, slots=True)
class Flight:
    """What it computes, and where its results will be."""

    batch: Batch
    chosen: Chosen | None  # None where nothing is drawn
    scores: list[Callable[[], list[TokenLogprobs]]]
    wait: Callable[[], None]

    def land(self, chunks: Sequence[Chunk]) -> list[ChunkResult]:
        """Wait; return the results of some of its chunks, in their order."""
        self.wait()
        choices = Choices((), {}, {})
        if self.chosen is not None:
            choices = Choices(
                self.chosen.token_ids(), self.chosen.logprobs(), self.chosen.candidates()
            )
        scores = [score for read in self.scores for score in read()]
        return results_of(chunks, self.batch.chunks, choices, scores)


class Drawn:
    """The tokens that passes under way draw, where they will be read by the next one."""

    def __init__(self, flights: Sequence[Flight]) -> None:
        self._tokens: list[torch.Tensor] = []
        self._places: dict[int, int] = {}
        count = 0
        for flight in flights:
            if flight.chosen is None:
                continue
            self._tokens.append(flight.chosen.drawn)
            for chunk in flight.batch.chunks:
                if chunk.samples:
                    # of several draws the first: whoever has forks or drafts is not planned
                    self._places[id(chunk.request)] = count
                    count += 1 + len(chunk.drafts) + len(chunk.forks)

    def place(self, request: Request) -> int:
        """Return which of the `tokens` is the request's."""
        return self._places[id(request)]

    @property
    def tokens(self) -> torch.Tensor:
        """All of them on the device, int64 [S]."""
        return self._tokens[0] if len(self._tokens) == 1 else torch.cat(self._tokens)
