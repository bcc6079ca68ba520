"""Inputs of a step on their way to the device: laid out in host memory, sent in one copy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from services.generator.backend.batch import Batch
from services.generator.backend.gpu.block_tables import DeviceBlockTables
from services.generator.backend.gpu.device import Device

# so that a part's address never changes which kernel is compiled for it
_ALIGNMENT = 256


@dataclass(frozen=True, slots=True)
class Inputs:
    """Views of one buffer; behind what a batch has, rows are padding that is never cached."""

    token_ids: torch.Tensor  # int64 [T]
    positions: torch.Tensor  # int64 [T]
    slots: torch.Tensor  # int64 [T]
    sources: torch.Tensor  # int64 [T], which of the tokens just sampled is a row's; -1 for none
    lengths: torch.Tensor  # int32 [S]
    rows: torch.Tensor  # int64 [N], whose logits are wanted
    chunk_starts: torch.Tensor  # int32 [chunks + 1]
    block_table: torch.Tensor  # int32 [S, blocks of the longest sequence]

    def block_tables(self, num_decodes: int) -> DeviceBlockTables:
        """Return the block tables of a step with so many decodes."""
        return DeviceBlockTables(
            self.slots, self.lengths, self.block_table, num_decodes, self.chunk_starts
        )


@dataclass(frozen=True, slots=True)
class Layout:
    """How many of everything there are. Where the first parts are follows from T and S alone."""

    num_tokens: int
    num_sequences: int
    num_chunks: int
    num_rows: int
    num_blocks: int

    @classmethod
    def of(cls, batch: Batch, num_padded: int | None = None) -> "Layout":
        """Return the layout of a batch, or of one of decodes padded to `num_padded` rows."""
        tables = batch.tables
        num_sequences = len(tables.num_queries)
        return cls(
            num_tokens=num_padded or len(batch.positions),
            num_sequences=num_padded or num_sequences,
            num_chunks=num_sequences - len(batch.singles),
            num_rows=len(batch.sample_rows) + len(batch.score_rows),
            num_blocks=max(map(len, tables.block_ids)),
        )

    def shapes(self) -> list[tuple[torch.dtype, tuple[int, ...]]]:
        """Return the dtype and shape of each of the `Inputs`."""
        tokens = (torch.int64, (self.num_tokens,))
        return [
            *([tokens] * 4),
            (torch.int32, (self.num_sequences,)),
            (torch.int64, (self.num_rows,)),
            (torch.int32, (self.num_chunks + 1,)),
            (torch.int32, (self.num_sequences, self.num_blocks)),
        ]

    def views(self, buffer: torch.Tensor) -> Inputs:
        """Return the parts of a buffer, uint8 [at least `num_bytes`]."""
        parts, begin = [], 0
        for dtype, shape in self.shapes():
            end = begin + torch.Size(shape).numel() * dtype.itemsize
            parts.append(buffer[begin:end].view(dtype).view(shape))
            begin = _aligned(end)
        return Inputs(*parts)

    @property
    def num_bytes(self) -> int:
        """The size of all parts."""
        sizes = (torch.Size(shape).numel() * dtype.itemsize for dtype, shape in self.shapes())
        return sum(map(_aligned, sizes))


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT


class StepInputs:
    """Three buffers on the host, which take turns, and one on the device.

    A batch may be laid out while two others are on their way; the one three turns ago has been
    waited for. On the device the order of work keeps them apart.
    """

    def __init__(self, device: Device, capacity: Layout) -> None:
        """`capacity` has the most of everything that any step may have."""
        num_bytes = capacity.num_bytes
        self._hosts = [device.host_tensor(num_bytes, dtype=torch.uint8) for _ in range(3)]
        self._buffer = torch.zeros(num_bytes, dtype=torch.uint8, device=device.device)
        self._turn = 0

    def lay_out(self, batch: Batch, num_padded: int | None = None) -> tuple[Layout, Inputs]:
        """Write all that is known of a batch to a buffer on the host; its tokens may not be."""
        self._turn = (self._turn + 1) % len(self._hosts)
        layout = Layout.of(batch, num_padded)
        host = layout.views(self._hosts[self._turn])
        count, tables = len(batch.positions), batch.tables
        num_sequences = len(tables.num_queries)
        # padding is at position 0, sees nothing and leaves nothing
        for padded in (host.token_ids, host.positions):
            padded[count:] = 0
        host.slots[count:] = -1
        host.lengths[num_sequences:] = 0
        host.sources.fill_(-1)
        host.positions[:count] = batch.positions
        host.slots[:count] = tables.slots
        host.lengths[:num_sequences] = torch.tensor(tables.context_lengths)
        torch.cat((batch.sample_rows, batch.score_rows), out=host.rows)
        starts = [0]
        for num_queries in tables.num_queries[len(batch.singles) :]:
            starts.append(starts[-1] + num_queries)
        host.chunk_starts[:] = torch.tensor(starts)
        _fill(host.block_table, tables.block_ids)
        return layout, host

    def send(
        self,
        layout: Layout,
        host: Inputs,
        token_ids: torch.Tensor,
        sources: Mapping[int, int] | None = None,
    ) -> Inputs:
        """Start the copy of what was laid out last, with its tokens; return it on the device.

        `sources` has, by row, which of the tokens just sampled takes the place of `token_ids`'.
        """
        host.token_ids[: len(token_ids)] = token_ids
        if sources:
            host.sources[list(sources)] = torch.tensor(list(sources.values()))
        num_bytes = layout.num_bytes
        laid_out = self._hosts[self._turn][:num_bytes]
        self._buffer[:num_bytes].copy_(laid_out, non_blocking=True)
        return layout.views(self._buffer)

    def decodes(self, num_padded: int) -> Inputs:
        """Return where batches of decodes padded to so many rows are, but for their tables."""
        return Layout(num_padded, num_padded, 0, 0, 0).views(self._buffer)


def _fill(table: torch.Tensor, block_ids: Sequence[Sequence[int]]) -> None:
    rows = table.numpy()
    for row, ids in enumerate(block_ids):
        rows[row, : len(ids)] = ids
        # what lies behind is never looked at, but a number of another step would be odd to see
        rows[row, len(ids) :] = 0
    rows[len(block_ids) :] = 0
