"""Beam search as a policy: of all beams' likeliest continuations it keeps the best. Plain numbers.

Each step takes the 2k best of all continuations of k beams. Those that end with a stop token are
finished if they are among the first k; the first k of the others go on. A finished sequence's
score is its log-probability by its number of tokens (a stop token included) to the power of the
length penalty. The search ends when no beam can still get ahead of the k best that are finished,
so it is exact where transformers' `early_stopping="never"` is, and needs not run to the last token.
"""

import heapq
from collections.abc import Sequence
from typing import NamedTuple

from services.generator.engine.token_logprobs import Candidate


class Row(NamedTuple):
    """A live beam: its output so far, and its likeliest continuations, best first."""

    token_ids: Sequence[int]
    candidates: Sequence[Candidate]


class Continuation(NamedTuple):
    """A beam that goes on: the index of the one it extends, and its new last token."""

    parent: int
    token_id: int


class Hypothesis(NamedTuple):
    """A finished sequence as it is delivered; `num_tokens` counts its stop token always."""

    score: float
    token_ids: tuple[int, ...]
    num_tokens: int
    is_stopped: bool


class BeamSearch:
    """One search from its prompt to its end; finished sequences may include their stop tokens."""

    def __init__(
        self,
        width: int,
        length_penalty: float,
        max_tokens: int,
        stop_token_ids: frozenset[int],
        *,
        include_stop_token: bool = False,
    ) -> None:
        self.finished: list[Hypothesis] = []
        self._width = width
        self._length_penalty = length_penalty
        self._max_tokens = max_tokens
        self._stop_token_ids = stop_token_ids
        self._include_stop_token = include_stop_token
        self._logprobs = [0.0]

    def advance(self, rows: Sequence[Row]) -> list[Continuation]:
        """Return the beams that go on, best first; none when the search has ended.

        `rows` are the beams returned before, in that order, or the prompt alone at first.
        """
        num_tokens = len(rows[0].token_ids) + 1
        ranked = heapq.nlargest(
            # as many as it takes that `width` of them go on, whatever stops
            self._width * (1 + max(1, len(self._stop_token_ids))),
            (
                (self._logprobs[index] + candidate.logprob, -index, candidate.token_id)
                for index, row in enumerate(rows)
                for candidate in row.candidates
            ),
        )
        beams: list[Continuation] = []
        logprobs: list[float] = []
        for rank, (logprob, negative_index, token_id) in enumerate(ranked):
            is_stopped = token_id in self._stop_token_ids
            if is_stopped or num_tokens == self._max_tokens:
                if rank < self._width:
                    token_ids = rows[-negative_index].token_ids
                    self._finish(logprob, (*token_ids, token_id), is_stopped=is_stopped)
            elif len(beams) < self._width:
                beams.append(Continuation(-negative_index, token_id))
                logprobs.append(logprob)
        self._logprobs = logprobs
        return beams if beams and self._can_improve(num_tokens) else []

    def _finish(self, logprob: float, token_ids: tuple[int, ...], *, is_stopped: bool) -> None:
        num_tokens = len(token_ids)
        score = self._score(logprob, num_tokens)
        is_withheld = is_stopped and not self._include_stop_token
        delivered = token_ids[:-1] if is_withheld else token_ids
        self.finished.append(Hypothesis(score, delivered, num_tokens, is_stopped))
        self.finished.sort(key=lambda hypothesis: -hypothesis.score)
        del self.finished[self._width :]

    def _can_improve(self, num_tokens: int) -> bool:
        """Return whether the best beam, at the length that suits it, may beat a finished one."""
        if len(self.finished) < self._width:
            return True
        num_best = self._max_tokens if self._length_penalty > 0.0 else num_tokens
        return self._score(self._logprobs[0], num_best) > self.finished[-1].score

    def _score(self, logprob: float, num_tokens: int) -> float:
        return logprob / float(num_tokens**self._length_penalty)

    def __repr__(self) -> str:
        return f"BeamSearch(width {self._width}, live {len(self._logprobs)}, {len(self.finished)})"
