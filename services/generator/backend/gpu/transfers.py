"""Asynchronous copies between host and device, through pinned memory that stays where it is."""

from collections.abc import Mapping

import torch

from services.generator.backend.gpu.device import Device

# what kernels expect of addresses: another alignment would be compiled as another kernel
_ALIGNMENT = 16


class Transfers:
    """Three arenas of host memory, used in turn and grown as needed.

    What was sent or fetched in one turn is overwritten three turns later; until then the caller has
    waited for it (`Device.mark`): two steps may be in flight while a third is launched.
    """

    def __init__(self, device: Device, num_bytes: int) -> None:
        """`num_bytes` is what one turn is expected to need."""
        self._device = device
        self._arenas = [
            device.host_tensor(_aligned(num_bytes), dtype=torch.uint8) for _ in range(3)
        ]
        self._num_used = 0

    def turn(self) -> None:
        """Begin another turn, in the memory of the one three turns ago."""
        self._arenas.append(self._arenas.pop(0))
        self._num_used = 0

    def take(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        """Return host memory for this turn, not cleared."""
        num_bytes = dtype.itemsize * torch.Size(shape).numel()
        if self._num_used + num_bytes > len(self._arenas[0]):
            # what was taken of the old arena keeps it alive, as its copies under way do
            num_needed = max(2 * len(self._arenas[0]), _aligned(num_bytes))
            self._arenas[0] = self._device.host_tensor(num_needed, dtype=torch.uint8)
            self._num_used = 0
        part = self._arenas[0][self._num_used : self._num_used + num_bytes]
        self._num_used += _aligned(num_bytes)
        return part.view(dtype).view(shape)

    def send(self, columns: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return these tensors [n] of host memory on the device, by a single copy."""
        starts = [0]
        for column in columns.values():
            starts.append(starts[-1] + _aligned(column.nbytes))
        packed = self.take(starts[-1], dtype=torch.uint8)
        sent = torch.empty_like(packed, device=self._device.device)
        views = {}
        for start, (name, column) in zip(starts, columns.items(), strict=False):
            part = slice(start, start + column.nbytes)
            packed[part].view(column.dtype).copy_(column)
            views[name] = sent[part].view(column.dtype)
        sent.copy_(packed, non_blocking=True)
        return views

    def fetch(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return host memory that holds this tensor of the device once the caller has waited."""
        return self.take(*tensor.shape, dtype=tensor.dtype).copy_(tensor, non_blocking=True)

    def __repr__(self) -> str:
        return f"Transfers({self._device!r}, {self._num_used} of {len(self._arenas[0])} bytes)"


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
