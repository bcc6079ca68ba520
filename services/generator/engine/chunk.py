"""The seam between scheduler and runner: which tokens of which request to compute now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from services.generator.engine.beam_search import Candidate
from services.generator.engine.request import Request
from services.generator.engine.token_logprobs import TokenLogprobs


@dataclass(frozen=True, slots=True)
class Chunk:
    """Compute `num_tokens` known tokens of `request`, beginning at position `start`.

    The request's blocks already cover the chunk's last position.
    """

    request: Request
    start: int
    num_tokens: int

    @property
    def end(self) -> int:
        """The position after the chunk's last token."""
        return self.start + self.num_tokens

    @property
    def samples(self) -> bool:
        """True when the chunk reaches the last known token, so that a new one must be drawn."""
        return self.end == self.request.num_tokens

    @property
    def drawing(self) -> list[Request]:
        """Those that draw from the last row: the request, and the forks that go on from it."""
        if not self.samples:
            return []
        return [self.request] if self.request.beams else [self.request, *self.request.forks]

    @property
    def scored(self) -> range:
        """Positions of the chunk whose logits tell the next prompt token's wanted probability."""
        first = self.request.num_scored_tokens
        return range(
            max(self.start, first), min(self.end, first + self.request.num_unscored_tokens)
        )


class ChunkResult(NamedTuple):
    """What became of a chunk: a drawn token, nothing (more chunks follow), or a failure.

    `logprobs` describes the drawn token; `prompt_logprobs` the tokens after the scored positions.
    `forks` has what each fork of the request drew from the same row; `candidates` are a beam's,
    best first.
    """

    token_id: int | None = None
    failed: bool = False
    logprobs: TokenLogprobs | None = None
    prompt_logprobs: Sequence[TokenLogprobs] = ()
    forks: Sequence[ChunkResult] = ()
    candidates: Sequence[Candidate] = ()
