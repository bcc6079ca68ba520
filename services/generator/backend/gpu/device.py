"""The device behind the GPU runner: memory, the order of work, and CUDA graphs."""

import gc
from collections.abc import Callable
from typing import Any, Protocol

import torch

Call = Callable[[], None]
# whose classes have no types
_cuda: Any = torch.cuda


class Device(Protocol):
    """Work is launched in order and completes later; `mark` knows when."""

    device: torch.device
    compiles: bool  # whether a kernel waits for a compiler when it is launched first

    def host_tensor(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        """Return host memory that the device copies from and to by itself."""
        ...

    def mark(self) -> Call:
        """Return what waits for all that was launched before."""
        ...

    def capture(self, *works: Call) -> list[Call]:
        """Return for each what does again what it launches, on the same memory; run it once before.

        All share the memory of what they make and let go: the largest comes first.
        """
        ...

    def free_bytes(self) -> int:
        """Return the memory that can still be had, what the allocator keeps unused included."""
        ...

    def release(self) -> None:
        """Give what the allocator keeps unused back to the device."""
        ...

    def peak_bytes(self, work: Call) -> int:
        """Return the most memory that `work`, which is run, holds at once."""
        ...


class CudaDevice:
    """The first visible GPU, by its default stream. Its graphs share memory: replay, then read."""

    def __init__(self) -> None:
        self.device = torch.device("cuda", 0)
        self.compiles = True

    def host_tensor(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        """See `Device`."""
        return torch.empty(*shape, dtype=dtype, pin_memory=True)

    def mark(self) -> Call:
        """See `Device`."""
        event = _cuda.Event()
        event.record()
        wait: Call = event.synchronize
        return wait

    def capture(self, *works: Call) -> list[Call]:
        """See `Device`."""
        # what dies while a stream is captured may call what must not be called then
        gc.collect()
        # one for all, because a library keeps a workspace for each stream that it has met
        side = _cuda.Stream()
        pool: Any = None
        replays: list[Call] = []
        for work in works:
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                # workspaces are taken and kernels are compiled before the capture, not in it
                work()
            torch.cuda.current_stream().wait_stream(side)
            graph = _cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool, stream=side):
                work()
            # which ends with the last of these graphs
            pool = pool or graph.pool()
            replays.append(graph.replay)
        return replays

    def free_bytes(self) -> int:
        """See `Device`."""
        free, _ = torch.cuda.mem_get_info(self.device)
        unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return int(free + unused)

    def release(self) -> None:
        """See `Device`."""
        torch.cuda.empty_cache()

    def peak_bytes(self, work: Call) -> int:
        """See `Device`."""
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        work()
        torch.cuda.synchronize(self.device)
        return int(torch.cuda.max_memory_allocated(self.device)) - before

    def __repr__(self) -> str:
        return f"CudaDevice({torch.cuda.get_device_name(self.device)})"


class HostDevice:
    """The CPU in a GPU's place, where Triton's interpreter runs the kernels; captures nothing."""

    def __init__(self, num_bytes: int = 2**30) -> None:
        """`num_bytes` is what it says is free."""
        self.device = torch.device("cpu")
        self.compiles = False
        self._num_bytes = num_bytes

    def host_tensor(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        """See `Device`."""
        return torch.empty(*shape, dtype=dtype)

    def mark(self) -> Call:
        """See `Device`."""
        return lambda: None

    def capture(self, *works: Call) -> list[Call]:
        """See `Device`."""
        return list(works)

    def free_bytes(self) -> int:
        """See `Device`."""
        return self._num_bytes

    def release(self) -> None:
        """See `Device`."""

    def peak_bytes(self, work: Call) -> int:
        """See `Device`; nothing measures here, so nothing is run."""
        return 0

    def __repr__(self) -> str:
        return "HostDevice()"
