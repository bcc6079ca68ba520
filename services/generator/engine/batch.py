"""Turns scheduled chunks into the flat tensors of one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from services.generator.engine.chunk import Chunk
from services.generator.model.pages import Pages


@dataclass(frozen=True, slots=True)
class Batch:
    """`chunks` in the order of their rows: decodes by falling length, then prompt chunks."""

    chunks: list[Chunk]
    token_ids: torch.Tensor  # [T] int64
    positions: torch.Tensor  # [T] int64
    sample_rows: torch.Tensor  # [S] int64, the last row of each sampling chunk, once per draw
    score_rows: torch.Tensor  # [P] int64, the scored rows of all chunks, in order
    pages: Pages


def build_batch(chunks: Sequence[Chunk], block_size: int) -> Batch:
    """Lay the chunks out for one pass."""
    decodes = sorted((c for c in chunks if c.num_tokens == 1), key=lambda c: c.end, reverse=True)
    prompts = [chunk for chunk in chunks if chunk.num_tokens > 1]
    ordered = decodes + prompts
    ends = list(accumulate(chunk.num_tokens for chunk in ordered))
    sample_rows = [end - 1 for c, end in zip(ordered, ends, strict=True) for _ in c.drawing]
    score_rows = [
        end - c.end + position
        for c, end in zip(ordered, ends, strict=True)
        for position in c.scored
    ]
    pages = Pages(
        torch.tensor([slot for chunk in ordered for slot in _slots(chunk, block_size)]),
        [chunk.num_tokens for chunk in ordered],
        [chunk.end for chunk in ordered],
        [_blocks(chunk, block_size) for chunk in ordered],
    )
    return Batch(
        ordered,
        torch.tensor([t for c in ordered for t in c.request.token_ids[c.start : c.end]]),
        torch.tensor([p for c in ordered for p in range(c.start, c.end)]),
        torch.tensor(sample_rows, dtype=torch.int64),
        torch.tensor(score_rows, dtype=torch.int64),
        pages,
    )


def _slots(chunk: Chunk, block_size: int) -> list[int]:
    """Return the row of the cache for each of the chunk's tokens."""
    block_ids = chunk.request.block_ids
    return [
        block_ids[position // block_size] * block_size + position % block_size
        for position in range(chunk.start, chunk.end)
    ]


def _blocks(chunk: Chunk, block_size: int) -> list[int]:
    return chunk.request.block_ids[: -(-chunk.end // block_size)]
