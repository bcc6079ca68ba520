"""A GPU that is not here: Triton compiles what is launched for it, and nothing is run."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase

from tests.generator.backend.gpu.triton.offline import SHARED_LIMIT, usage

MULTIPROCESSORS = 132


class Loaded(NamedTuple):
    """A kernel that was compiled because it was launched in this form for the first time."""

    name: str
    registers: int
    spilled: int  # bytes of stack and local memory


class OfflineDriver(DriverBase):
    """Stands in for CUDA's driver of one compute capability."""

    def __init__(self, capability: int) -> None:
        self.capability = capability
        self.loaded: list[Loaded] = []
        self.num_launches = 0
        self.utils = self

    @classmethod
    def is_active(cls) -> bool:
        return True

    def map_python_to_cpp_type(self, ty: str) -> str:
        return ty

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_benchmarker(self) -> Any:
        raise AssertionError("nothing is tuned while serving")

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": SHARED_LIMIT[self.capability]}

    def load_binary(self, name: str, cubin: bytes, shared: int, device: int) -> tuple[Any, ...]:
        taken = usage(cubin)
        self.loaded.append(Loaded(name, taken["registers"], taken["stack"] + taken["local"]))
        return name, name, taken["registers"], 0, 1024

    def launcher_cls(self, source: Any, metadata: Any) -> Callable[..., None]:
        def launch(*arguments: Any) -> None:
            self.num_launches += 1

        return launch


def zero_what_is_empty() -> None:
    """Let tensors be zeros that a kernel would have written, so that tokens are tokens."""

    def zeros(*shape: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        return torch.zeros(*shape, **options)

    torch.empty = zeros  # type: ignore[assignment]
    torch.empty_like = torch.zeros_like
    torch.Tensor.new_empty = torch.Tensor.new_zeros  # type: ignore[assignment,method-assign]
