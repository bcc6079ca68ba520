"""Turns scheduled chunks into the flat tensors of one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from services.generator.engine.chunk import Chunk
from services.generator.model.attention import AttentionPlan, DecodeGroup, PromptChunk

# Padding a context by this many blocks costs less than one more attention call per layer.
_FREE_PADDING_BLOCKS = 8


@dataclass(frozen=True, slots=True)
class Batch:
    """`chunks` in the order of their rows: decodes by falling length, then prompt chunks."""

    chunks: list[Chunk]
    token_ids: torch.Tensor  # [T] int64
    positions: torch.Tensor  # [T] int64
    sample_rows: torch.Tensor  # [S] int64, the last row of each sampling chunk
    score_rows: torch.Tensor  # [P] int64, the scored rows of all chunks, in order
    plan: AttentionPlan


def build_batch(chunks: Sequence[Chunk], block_size: int) -> Batch:
    """Lay the chunks out for one pass."""
    decodes = sorted((c for c in chunks if c.num_tokens == 1), key=lambda c: c.end, reverse=True)
    prompts = [chunk for chunk in chunks if chunk.num_tokens > 1]
    ordered = decodes + prompts
    ends = list(accumulate(chunk.num_tokens for chunk in ordered))
    sample_rows = [end - 1 for c, end in zip(ordered, ends, strict=True) if c.samples]
    score_rows = [
        end - c.end + position
        for c, end in zip(ordered, ends, strict=True)
        for position in c.scored
    ]
    plan = AttentionPlan(
        torch.tensor([slot for chunk in ordered for slot in _slots(chunk, block_size)]),
        [_decode_group(group, block_size) for group in _groups(decodes, block_size)],
        [_prompt_chunk(chunk, block_size) for chunk in prompts],
    )
    return Batch(
        ordered,
        torch.tensor([t for c in ordered for t in c.request.token_ids[c.start : c.end]]),
        torch.tensor([p for c in ordered for p in range(c.start, c.end)]),
        torch.tensor(sample_rows, dtype=torch.int64),
        torch.tensor(score_rows, dtype=torch.int64),
        plan,
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


def _groups(decodes: Sequence[Chunk], block_size: int) -> list[list[Chunk]]:
    """Cut decodes, longest first, so that padding never more than about doubles a context."""
    groups: list[list[Chunk]] = []
    for chunk in decodes:
        if groups:
            longest = groups[-1][0].end
            if 2 * chunk.end >= longest or longest - chunk.end <= _FREE_PADDING_BLOCKS * block_size:
                groups[-1].append(chunk)
                continue
        groups.append([chunk])
    return groups


def _decode_group(group: list[Chunk], block_size: int) -> DecodeGroup:
    context_length = group[0].end
    width = -(-context_length // block_size)
    block_ids: list[int] = []
    for chunk in group:
        blocks = _blocks(chunk, block_size)
        block_ids += blocks
        block_ids += [0] * (width - len(blocks))
    mask = None
    if group[-1].end < context_length:
        lengths = torch.tensor([chunk.end for chunk in group]).view(-1, 1, 1, 1)
        is_padding = torch.arange(context_length) >= lengths
        mask = torch.zeros(is_padding.shape).masked_fill_(is_padding, float("-inf"))
    return DecodeGroup(len(group), torch.tensor(block_ids), context_length, mask)


def _prompt_chunk(chunk: Chunk, block_size: int) -> PromptChunk:
    block_ids = torch.tensor(_blocks(chunk, block_size)) if chunk.start > 0 else None
    return PromptChunk(chunk.num_tokens, block_ids, chunk.end)
