"""A device whose copies may be as late as their wait: host memory must keep still so long."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from services.generator.backend.gpu.device import Call, HostDevice


class LateDevice(HostDevice):
    """Remembers what was under way; told at each wait whether the host touched it in between."""

    def __init__(self) -> None:
        super().__init__()
        self.num_copies = 0
        self.num_torn = 0
        # held, so that no other tensor gets the memory of one that is gone
        self._tensors: list[torch.Tensor] = []
        self._storages: set[int] = set()
        self._under_way: list[tuple[torch.Tensor, torch.Tensor]] = []

    def host_tensor(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        tensor = super().host_tensor(*shape, dtype=dtype).zero_()
        self._tensors.append(tensor)
        self._storages.add(tensor.untyped_storage().data_ptr())
        return tensor

    def mark(self) -> Call:
        """Return what tells whether all that was under way before is as it was."""
        before = {id(memory) for memory, _ in self._under_way}

        def wait() -> None:
            # but for what an earlier wait was for
            over = [pair for pair in self._under_way if id(pair[0]) in before]
            self._under_way = [pair for pair in self._under_way if id(pair[0]) not in before]
            # counted, because the engine would take an error for a fault of the request's
            self.num_torn += sum(not torch.equal(memory, content) for memory, content in over)

        return wait

    def note(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Remember a copy that nobody waited for, by its side that is the host's."""
        for side in (target, source):
            if side.untyped_storage().data_ptr() in self._storages:
                self._under_way.append((side.detach().view(torch.uint8), _bytes(side)))
                self.num_copies += 1


class Copies(TorchDispatchMode):
    """Tells the device of every copy that does not block."""

    def __init__(self, device: LateDevice) -> None:
        super().__init__()
        self._device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        done = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ == "copy_" and (args[2:] or (False,))[0]:
            self._device.note(args[0], args[1])
        return done


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().view(torch.uint8).clone()
