"""KV cache: the tensor of keys and values, cut into blocks. Knows nothing of who holds a block."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from services.generator.model.checkpoint.config import ModelConfig


class LayerCache(NamedTuple):
    """Two views of one layer's memory.

    Where a token's keys and values lie within its block is up to the attention: torch's keeps a
    token to a row, the compiled kernel's has another order within the same bytes.
    """

    slots: torch.Tensor  # [num_blocks * block_size, 2 * kv_size], to write tokens
    blocks: torch.Tensor  # [num_blocks, block_size * 2 * kv_size], to gather contexts


class KVCache:
    """Allocated once. Zeroed, because a masked position times NaN would still be NaN."""

    def __init__(
        self,
        config: ModelConfig,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        zeros: Callable[..., torch.Tensor] = torch.zeros,
    ) -> None:
        """`zeros(shape, dtype=dtype)` allocates its storage, in a backend's kind of memory."""
        shape = (config.num_layers, num_blocks, block_size, 2 * config.kv_size)
        self._storage = zeros(shape, dtype=dtype)
        self.block_size = block_size
        # floats of eight bits have no indexing of their own
        self._indexed = self._storage.view(torch.uint8) if dtype.itemsize == 1 else self._storage
        self.layers = [
            LayerCache(layer.view(-1, shape[-1]), layer.view(num_blocks, -1))
            for layer in self._storage
        ]

    @property
    def num_bytes(self) -> int:
        """Size of the whole cache in bytes."""
        return self._storage.nbytes

    def clear(self, block_ids: Sequence[int]) -> None:
        """Zero the content of these blocks in every layer."""
        if block_ids:
            self._indexed[:, torch.tensor(block_ids)] = 0

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy the content of each pair's first block to its second, in every layer.

        All are read before any is written; no block is written twice.
        """
        if pairs:
            sources, targets = torch.tensor(pairs).unbind(1)
            self._indexed[:, targets] = self._indexed[:, sources]

    def __repr__(self) -> str:
        shape, dtype = tuple(self._storage.shape), self._storage.dtype
        return f"KVCache({shape}, {dtype}, {self.num_bytes / 2**20:.0f} MiB)"


def block_bytes(config: ModelConfig, block_size: int, dtype: torch.dtype) -> int:
    """Return the bytes that one block takes over all layers."""
    return config.num_layers * block_size * 2 * config.kv_size * dtype.itemsize
