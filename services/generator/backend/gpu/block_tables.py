"""Block tables of one step on the device, as the paged attention kernels take them."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class DeviceBlockTables:
    """Where a step's tokens are written and what each sequence reads.

    The first `num_decodes` sequences have one row each; the others' rows follow in their order.
    """

    slots: torch.Tensor  # int64 [T], -1 for rows that are not cached
    lengths: torch.Tensor  # int32 [S], tokens of each sequence with this step's
    block_table: torch.Tensor  # int32 [S, blocks of a sequence], rows may lie apart
    num_decodes: int
    chunk_starts: torch.Tensor  # int32 [chunks + 1], of their rows behind the decodes'
