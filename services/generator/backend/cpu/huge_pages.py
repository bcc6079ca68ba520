"""Huge pages: memory in pages of 2 MiB, where the system gives them to those who ask.

Every step reads all weights once, and in pages of 4 KiB it waits for the translation of addresses
too; `python -m bench.bandwidth` tells how long.
"""

import math
import mmap
from collections.abc import Sequence

import torch

_PAGE_BYTES = 2**21
_ALIGNMENT = 64


class HugePages:
    """Hands out tensors side by side; their memory goes when the last one of a mapping does."""

    def __init__(self, mapping_bytes: int = 2**26) -> None:
        self._mapping_bytes = mapping_bytes
        self._memory = torch.empty(0, dtype=torch.uint8)

    def zeros(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return a new tensor, aligned to 64 bytes; pages are taken when they are written."""
        num_bytes = math.prod(shape) * dtype.itemsize
        taken = -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
        if taken > len(self._memory):
            self._memory = _mapping(max(taken, self._mapping_bytes))
        part, self._memory = self._memory[:num_bytes], self._memory[taken:]
        return part.view(dtype).view(*shape)


def _mapping(num_bytes: int) -> torch.Tensor:
    """Return zeroed bytes from a huge page's first on."""
    try:
        memory = mmap.mmap(-1, num_bytes + _PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"no {num_bytes} bytes are left") from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.frombuffer(memory, dtype=torch.uint8)
    begin = -whole.data_ptr() % _PAGE_BYTES
    return whole[begin : begin + num_bytes]
