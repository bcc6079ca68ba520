"""Block tables of one step, for paged attention: where tokens go and what each sequence reads."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class BlockTables:
    """The rows of a batch by sequence: single queries first, longest context first, then chunks.

    Entry i of the three lists is one sequence: how many rows of the batch are its queries, how
    many tokens it has with them, and the blocks that hold those.
    """

    slots: torch.Tensor  # [T] int64, the row of the cache for each token
    num_queries: Sequence[int]
    context_lengths: Sequence[int]
    block_ids: Sequence[Sequence[int]]
