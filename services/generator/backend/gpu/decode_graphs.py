"""CUDA graphs of decodes, captured once for each of a ladder of batch sizes and then replayed.

A replay is one call from the host where a step is hundreds of launches; a batch between two sizes
is padded to the larger one.
"""

import bisect
import logging
import time
from dataclasses import replace

import torch

from services.generator.backend.gpu.device import Call, Device
from services.generator.backend.gpu.step_inputs import Inputs, StepInputs
from services.generator.model.decoder import Decoder
from services.generator.model.kv_cache import KVCache

logger = logging.getLogger(__name__)


def ladder(largest: int) -> list[int]:
    """Return the batch sizes up to `largest`: padding is at most 7 rows, from 64 on an eighth."""
    sizes, size = [1, 2, 4], 8
    while size < largest:
        sizes.append(size)
        size += max(8, 1 << (size.bit_length() - 4))
    return [*(size for size in sizes if size < largest), largest]


class DecodeGraphs:
    """Owns the CUDA graphs, and the block table that they read."""

    def __init__(
        self,
        model: Decoder,
        cache: KVCache,
        device: Device,
        inputs: StepInputs,
        largest: int,
        num_blocks: int,
    ) -> None:
        """Capture all sizes, the largest first, whose memory the others share.

        `num_blocks` is the most that one sequence has.
        """
        started_s, free_bytes = time.monotonic(), device.free_bytes()
        self._sizes = ladder(largest)
        self._table = torch.zeros(largest, num_blocks, dtype=torch.int32, device=device.device)
        self._model, self._cache = model, cache
        largest_first = self._sizes[::-1]
        # by size, where the latest run of the work left it: on a GPU the captured one
        self._hidden: dict[int, torch.Tensor] = {}
        works = [self._work(inputs.decodes(size), size) for size in largest_first]
        self._replays = dict(zip(largest_first, device.capture(*works), strict=True))
        logger.info(
            "captured decodes of %s sequences in %.1f s and %.1f MiB",
            ", ".join(map(str, self._sizes)),
            time.monotonic() - started_s,
            (free_bytes - device.free_bytes()) / 2**20,
        )

    def padded(self, num_decodes: int) -> int | None:
        """Return the size that takes so many decodes; None beyond the largest."""
        index = bisect.bisect_left(self._sizes, num_decodes)
        return self._sizes[index] if index < len(self._sizes) else None

    def replay(self, inputs: Inputs) -> torch.Tensor:
        """Return hidden states [padded, hidden], good until the next replay."""
        size, num_blocks = inputs.block_table.shape
        self._table[:size, :num_blocks] = inputs.block_table
        self._replays[size]()
        return self._hidden[size]

    def _work(self, inputs: Inputs, size: int) -> Call:
        tables = replace(inputs, block_table=self._table[:size]).block_tables(size)

        def work() -> None:
            # the inputs are zeros: such a batch writes to the first block, which is still free
            prepared = self._model.prepare(inputs.positions, tables, self._cache, inputs.rows)
            self._hidden[size] = self._model.hidden_states(inputs.token_ids, prepared, self._cache)

        return work

    def __repr__(self) -> str:
        return f"DecodeGraphs({len(self._sizes)} sizes up to {self._sizes[-1]})"
