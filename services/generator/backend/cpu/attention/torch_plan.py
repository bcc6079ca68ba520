"""Plan of torch's paged attention: which sequences of a step are computed together.

Decodes of similar length are padded to one call; a window (arXiv:2004.05150) leaves out the blocks
that none of its queries sees.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from services.generator.model.block_tables import BlockTables

# Padding a context by this many blocks costs less than one more attention call per layer.
_FREE_PADDING_BLOCKS = 8


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Consecutive rows of the batch with one query each and contexts of similar length."""

    num_rows: int
    block_ids: torch.Tensor  # [num_rows * blocks per row], padded with any valid block
    context_length: int  # tokens kept of each padded context
    mask: torch.Tensor | None  # float32 [num_rows, 1, 1, context_length], None if none is padded

    def within(self, window: int, block_size: int) -> "DecodeGroup":
        """Return the group for queries that see only the last `window` tokens."""
        if self.context_length <= window:
            return self
        ends = torch.tensor([self.context_length] * self.num_rows)
        if self.mask is not None:
            ends = self.mask.eq(0).sum(dim=-1).flatten()
        table = self.block_ids.view(self.num_rows, -1)
        first = (ends - window).clamp(min=0) // block_size
        width = int(((ends - 1) // block_size - first).max()) + 1
        columns = first.unsqueeze(1) + torch.arange(width)
        block_ids = table.gather(1, columns.clamp(max=table.shape[1] - 1)).flatten()
        positions = first.unsqueeze(1) * block_size + torch.arange(width * block_size)
        ends = ends.unsqueeze(1)
        is_hidden = (positions >= ends) | (positions < ends - window)
        mask = torch.zeros(is_hidden.shape).masked_fill_(is_hidden, float("-inf"))
        return DecodeGroup(
            self.num_rows, block_ids, width * block_size, mask.view(self.num_rows, 1, 1, -1)
        )


@dataclass(frozen=True, slots=True)
class PromptChunk:
    """Consecutive rows of the batch that belong to one request."""

    num_rows: int
    block_ids: torch.Tensor | None  # [blocks], None if the chunk starts at position 0
    context_length: int  # start + num_rows

    def within(self, window: int, block_size: int) -> "PromptChunk":
        """Return the chunk without the blocks before its first query's window."""
        first = max(0, self.context_length - self.num_rows - window + 1) // block_size
        if self.block_ids is None or first == 0:
            return self
        kept_length = self.context_length - first * block_size
        return PromptChunk(self.num_rows, self.block_ids[first:], kept_length)


@dataclass(frozen=True, slots=True)
class TorchPlan:
    """Where a step's tokens are written and what each reads; groups first, then chunks."""

    slots: torch.Tensor  # [T] int64
    groups: list[DecodeGroup]
    chunks: list[PromptChunk]

    @classmethod
    def of(cls, tables: BlockTables, block_size: int) -> "TorchPlan":
        """Group the sequences of a step for queries that see everything."""
        sequences = list(
            zip(tables.num_queries, tables.context_lengths, tables.block_ids, strict=True)
        )
        decodes = [(length, ids) for count, length, ids in sequences if count == 1]
        return cls(
            tables.slots,
            [_decode_group(group, block_size) for group in _groups(decodes, block_size)],
            [_prompt_chunk(*sequence) for sequence in sequences if sequence[0] > 1],
        )

    def within(self, window: int, block_size: int) -> "TorchPlan":
        """Return the plan for queries that see `window` tokens, themselves included."""
        return TorchPlan(
            self.slots,
            [group.within(window, block_size) for group in self.groups],
            [chunk.within(window, block_size) for chunk in self.chunks],
        )


_Decode = tuple[int, Sequence[int]]  # context length, blocks


def _groups(decodes: Sequence[_Decode], block_size: int) -> list[list[_Decode]]:
    """Cut decodes, longest first, so that padding never more than about doubles a context."""
    groups: list[list[_Decode]] = []
    for decode in decodes:
        if groups:
            longest, length = groups[-1][0][0], decode[0]
            if 2 * length >= longest or longest - length <= _FREE_PADDING_BLOCKS * block_size:
                groups[-1].append(decode)
                continue
        groups.append([decode])
    return groups


def _decode_group(group: list[_Decode], block_size: int) -> DecodeGroup:
    context_length = group[0][0]
    width = -(-context_length // block_size)
    block_ids = [block for _, ids in group for block in (*ids, *[0] * (width - len(ids)))]
    mask = None
    if group[-1][0] < context_length:
        lengths = torch.tensor([length for length, _ in group]).view(-1, 1, 1, 1)
        is_padding = torch.arange(context_length) >= lengths
        mask = torch.zeros(is_padding.shape).masked_fill_(is_padding, float("-inf"))
    return DecodeGroup(len(group), torch.tensor(block_ids), context_length, mask)


def _prompt_chunk(num_queries: int, context_length: int, ids: Sequence[int]) -> PromptChunk:
    block_ids = torch.tensor(ids) if context_length > num_queries else None
    return PromptChunk(num_queries, block_ids, context_length)
