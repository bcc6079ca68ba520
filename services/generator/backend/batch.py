"""Batch of a step: scheduled chunks as the flat tensors of one forward pass."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from services.generator.engine.chunk import Chunk
from services.generator.engine.request import Request
from services.generator.model.block_tables import BlockTables

_END = operator.attrgetter("end")
_POSITION = operator.itemgetter(0)


@dataclass(frozen=True, slots=True)
class Batch:
    """Decodes by falling length, then prompt chunks; so are the rows.

    A draft's row is that of a decode: it is computed by the very operations that would compute it
    in a later step. Which tokens stand in the rows is asked of the chunks when they are known.
    """

    scheduled: Sequence[Chunk]  # as they were asked for
    chunks: Sequence[Chunk]  # in the order of their rows
    singles: list[tuple[int, Chunk]]  # a decode's position and its chunk, the first rows
    positions: torch.Tensor  # [T] int64
    sample_rows: torch.Tensor  # [S] int64, the rows of all chunks' draws, in order
    score_rows: torch.Tensor  # [P] int64, the scored rows of all chunks, in order
    tables: BlockTables

    def is_of(self, chunks: Sequence[Chunk]) -> bool:
        """Return whether it was built of these very chunks, and no others."""
        return len(chunks) == len(self.scheduled) and all(map(operator.is_, chunks, self.scheduled))

    @property
    def token_ids(self) -> torch.Tensor:
        """The tokens of the rows as they are now, int64 [T]."""
        return self._tokens([chunk.token_at(position) for position, chunk in self.singles])

    @property
    def undrawn(self) -> dict[int, Request]:
        """The requests of the rows whose tokens are not known as yet, by row; without drafts."""
        return {
            row: chunk.request
            for row, (position, chunk) in enumerate(self.singles)
            if position >= len(chunk.request.token_ids)
        }

    @property
    def known_token_ids(self) -> torch.Tensor:
        """The tokens of the rows as far as they are known, else 0, int64 [T]; without drafts."""
        return self._tokens(
            [
                tokens[position] if position < len(tokens := chunk.request.token_ids) else 0
                for position, chunk in self.singles
            ]
        )

    def _tokens(self, token_ids: list[int]) -> torch.Tensor:
        """Return the tokens of the decodes with those of the prompts behind them."""
        for chunk in self.chunks:
            if chunk.num_known > 1:
                token_ids += chunk.token_ids
        return torch.tensor(token_ids)


def build_batch(chunks: Sequence[Chunk], block_size: int) -> Batch:
    """Lay the chunks out for one forward pass."""
    decodes = [chunk for chunk in chunks if chunk.num_known == 1]
    decodes.sort(key=_END, reverse=True)
    prompts = [chunk for chunk in chunks if chunk.num_known > 1]
    singles = [(p, chunk) for chunk in decodes for p in range(chunk.start, chunk.end)]
    singles.sort(key=_POSITION, reverse=True)
    positions = [torch.tensor([position for position, _ in singles], dtype=torch.int64)]
    positions += [torch.arange(chunk.start, chunk.end) for chunk in prompts]
    ordered = decodes + prompts
    # by identity: a hash would go through every field of a chunk
    rows = _rows_by_chunk(singles, prompts)
    score_rows = [
        rows[id(chunk)][position - chunk.start] for chunk in ordered for position in chunk.scored
    ]
    return Batch(
        list(chunks),
        ordered,
        singles,
        torch.cat(positions),
        torch.tensor(_sample_rows(ordered, rows), dtype=torch.int64),
        torch.tensor(score_rows, dtype=torch.int64),
        _block_tables(singles, prompts, positions[1:], block_size),
    )


def _block_tables(
    singles: Sequence[tuple[int, Chunk]],
    prompts: Sequence[Chunk],
    positions: Sequence[torch.Tensor],
    block_size: int,
) -> BlockTables:
    """Return the block tables of decodes and prompts; `positions` are those of the prompts."""
    single_slots = [_slot(chunk, position, block_size) for position, chunk in singles]
    slots = [torch.tensor(single_slots, dtype=torch.int64)]
    slots += [_slots(*each, block_size) for each in zip(prompts, positions, strict=True)]
    ends = [(position + 1, chunk) for position, chunk in singles]
    ends += [(chunk.end, chunk) for chunk in prompts]
    return BlockTables(
        torch.cat(slots),
        [1] * len(singles) + [chunk.num_tokens for chunk in prompts],
        [end for end, _ in ends],
        [chunk.request.block_ids[: -(-end // block_size)] for end, chunk in ends],
    )


def _sample_rows(chunks: Sequence[Chunk], rows: Mapping[int, Sequence[int]]) -> list[int]:
    """Return the rows that are sampled: after the last known token and drafts, then of forks."""
    return [
        row
        for chunk in chunks
        if chunk.samples
        for row in (
            *rows[id(chunk)][chunk.num_known - 1 :],
            *(rows[id(chunk)][-1] for _ in chunk.forks),
        )
    ]


def _rows_by_chunk(
    singles: Sequence[tuple[int, Chunk]], prompts: Sequence[Chunk]
) -> dict[int, Sequence[int]]:
    """Return the rows of each chunk in the order of its tokens, by the chunk's id()."""
    of_decodes: dict[int, list[int]] = {}
    # the latest position comes first
    for row in range(len(singles) - 1, -1, -1):
        of_decodes.setdefault(id(singles[row][1]), []).append(row)
    rows: dict[int, Sequence[int]] = dict(of_decodes)
    first = len(singles)
    for chunk in prompts:
        rows[id(chunk)] = range(first, first + chunk.num_tokens)
        first += chunk.num_tokens
    return rows


def _slot(chunk: Chunk, position: int, block_size: int) -> int:
    """Return the row of the cache for one of the chunk's tokens."""
    return chunk.request.block_ids[position // block_size] * block_size + position % block_size


def _slots(chunk: Chunk, positions: torch.Tensor, block_size: int) -> torch.Tensor:
    """Return the rows of the cache for consecutive positions of a chunk."""
    first = chunk.start // block_size
    blocks = torch.tensor(chunk.request.block_ids[first : -(-chunk.end // block_size)])
    offsets = positions - first * block_size
    return blocks[offsets // block_size] * block_size + offsets % block_size
