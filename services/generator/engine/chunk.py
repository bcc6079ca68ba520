"""The seam between scheduler and runner: which tokens of which request to compute now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from services.generator.engine.request import Request


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


class ChunkResult(NamedTuple):
    """What became of a chunk: a drawn token, nothing (more chunks follow), or a failure."""

    token_id: int | None = None
    failed: bool = False
