"""Overlap scheduling: a step in flight, launched and not read yet, and the tokens it samples."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from services.generator.backend.batch import Batch
from services.generator.backend.gpu.sampling.sampled_tokens import SampledTokens
from services.generator.engine.chunk import Chunk, ChunkResult
from services.generator.engine.request import Request
from services.generator.engine.results import Choices, results_of
from services.generator.engine.token_logprobs import TokenLogprobs

_NO_CHOICES = Choices((), {}, {})


class StepInFlight(NamedTuple):
    """What a step computes, and where its results will be."""

    batch: Batch
    sampled: SampledTokens | None  # None where nothing is sampled
    scores: Sequence[Callable[[], list[TokenLogprobs]]]
    wait: Callable[[], None]

    def collect(self, chunks: Sequence[Chunk]) -> list[ChunkResult]:
        """Wait for the device; return the results of some of the step's chunks, in their order."""
        self.wait()
        choices = _NO_CHOICES if self.sampled is None else self.sampled.choices()
        scores = [score for read in self.scores for score in read()]
        return results_of(chunks, self.batch.chunks, choices, scores)


class PendingTokens:
    """The tokens that steps in flight sample, where the step behind them reads them."""

    def __init__(self, steps: Sequence[StepInFlight]) -> None:
        self._tokens: list[torch.Tensor] = []
        self._indices: dict[int, int] = {}
        count = 0
        for step in steps:
            if step.sampled is None:
                continue
            self._tokens.append(step.sampled.on_device)
            for chunk in step.batch.chunks:
                if chunk.samples:
                    # of several draws the first: no request with forks or drafts is planned ahead
                    self._indices[id(chunk.request)] = count
                    count += 1 + len(chunk.drafts) + len(chunk.forks)

    def index(self, request: Request) -> int:
        """Return which of the `tokens` is the request's."""
        return self._indices[id(request)]

    @property
    def tokens(self) -> torch.Tensor:
        """All of them on the device, int64 [S]."""
        return self._tokens[0] if len(self._tokens) == 1 else torch.cat(self._tokens)
