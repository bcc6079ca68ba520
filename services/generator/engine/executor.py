"""Executor, the seam between the engine and the backend that computes its chunks."""

from collections.abc import Callable, Sequence
from typing import Protocol

from services.generator.engine.chunk import Chunk, ChunkResult

Overlap = Callable[[], Sequence[Chunk]]


class Executor(Protocol):
    """Computes chunks and keeps the KV cache's memory; tests bring one without a model."""

    def execute(self, chunks: Sequence[Chunk], overlap: Overlap) -> list[ChunkResult]:
        """Return one result per chunk, in order; call `overlap` once while they are computed.

        It returns the chunks planned for the next step, whose tokens are not known yet.
        """
        ...

    def clear(self, block_ids: Sequence[int]) -> None:
        """Forget the content of these blocks."""
        ...

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy the content of each pair's first block to its second; all are read first."""
        ...

    def release_memory(self) -> None:
        """Give back what no step holds, after one found too little."""
        ...
