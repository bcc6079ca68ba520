"""Chunks, the seam between scheduler and executor: which tokens of which request to compute."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from services.generator.engine.draw import Draw
from services.generator.engine.request import Request
from services.generator.engine.token_logprobs import Candidate, TokenLogprobs

_NOTHING = range(0)


def num_pairs(start: int, num_tokens: int) -> int:
    """Return the pairs of query and key: each token attends to itself and to all before it."""
    return num_tokens * start + num_tokens * (num_tokens + 1) // 2


# compared and hashed by identity: a planned chunk is the very one that is computed
@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Compute `num_tokens` tokens of `request`, beginning at position `start`.

    The last of them may be `drafts`: guesses of what follows the known tokens, computed to learn in
    one step what would be drawn after each. The request's blocks cover the chunk's last position.
    `num_known` are no drafts, at least one. `samples` is true when it reaches the last token known
    as it is made: a new one must be drawn.
    """

    request: Request
    start: int
    num_tokens: int
    drafts: tuple[int, ...] = ()
    num_known: int = field(init=False)
    samples: bool = field(init=False)

    def __post_init__(self) -> None:
        num_known = self.num_tokens - len(self.drafts)
        object.__setattr__(self, "num_known", num_known)
        object.__setattr__(self, "samples", self.start + num_known == self.request.num_tokens)

    @property
    def end(self) -> int:
        """The position after the chunk's last token."""
        return self.start + self.num_tokens

    @property
    def token_ids(self) -> Sequence[int]:
        """The tokens to compute, drafts included."""
        known = self.request.token_ids[self.start : self.start + self.num_known]
        return [*known, *self.drafts] if self.drafts else known

    def token_at(self, position: int) -> int:
        """Return the token at one of the chunk's positions."""
        index = position - self.start - self.num_known
        return self.request.token_ids[position] if index < 0 else self.drafts[index]

    @property
    def draws(self) -> list[Draw]:
        """What is drawn: after the last known token and each draft, then for the forks."""
        if not self.samples:
            return []
        if not self.drafts:
            return [Draw(self.request), *map(Draw, self.forks)]
        return [Draw(self.request, self.drafts[:count]) for count in range(len(self.drafts) + 1)]

    @property
    def num_pairs(self) -> int:
        """Pairs of query and key that attention forms."""
        return num_pairs(self.start, self.num_tokens)

    @property
    def forks(self) -> Sequence[Request]:
        """Requests that go on from this one's prompt and draw from the same last row."""
        return self.request.forks if self.samples and self.request.beams is None else ()

    @property
    def scored(self) -> range:
        """Positions of the chunk at which the next prompt token's logprob is wanted."""
        if self.request.params.prompt_logprobs is None:
            return _NOTHING
        first = self.request.num_scored_tokens
        return range(
            max(self.start, first), min(self.end, first + self.request.num_unscored_tokens)
        )


class ChunkResult(NamedTuple):
    """What became of a chunk: drawn tokens, nothing (more chunks follow), or a failure.

    One that is `out_of_memory` was not computed: there was no memory for it, even alone.
    `token_ids` are the drafts that were drawn too and one token more. `logprobs`, where asked for,
    describes each; `prompt_logprobs` the tokens after the scored positions. `forks` has what each
    fork of the request drew from the same row; `candidates` are a beam's, best first.
    """

    token_ids: tuple[int, ...] = ()
    failed: bool = False
    logprobs: Sequence[TokenLogprobs] = ()
    prompt_logprobs: Sequence[TokenLogprobs] = ()
    forks: "Sequence[ChunkResult]" = ()
    candidates: Sequence[Candidate] = ()
    out_of_memory: bool = False
