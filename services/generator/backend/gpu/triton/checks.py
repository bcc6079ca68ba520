"""What kernels demand of their arguments, told by name before anything is launched."""

from collections.abc import Collection

import torch


class KernelError(ValueError):
    """An argument that a kernel does not take; the message names it."""

    def __init__(self, argument: str, problem: str) -> None:
        super().__init__(f"{argument} {problem}")
        self.argument = argument


def require_shape(name: str, tensor: torch.Tensor, *shape: int | None) -> None:
    """Raise KernelError unless the shape is this one; None takes any size."""
    actual = tuple(tensor.shape)
    agrees = len(actual) == len(shape) and all(
        wanted in (None, size) for wanted, size in zip(shape, actual, strict=True)
    )
    if not agrees:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise KernelError(name, f"has shape {actual}, not ({wanted})")


def require_rows(name: str, tensor: torch.Tensor) -> None:
    """Raise KernelError unless the last dimension is contiguous; rows may lie apart."""
    if tensor.ndim and tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        raise KernelError(name, "has a last dimension that is not contiguous")


def require_contiguous(name: str, tensor: torch.Tensor) -> None:
    """Raise KernelError unless the whole tensor is contiguous."""
    if not tensor.is_contiguous():
        raise KernelError(name, "is not contiguous")


def require_dtype(name: str, tensor: torch.Tensor, dtypes: Collection[torch.dtype]) -> None:
    """Raise KernelError unless the dtype is one of these."""
    if tensor.dtype not in dtypes:
        names = ", ".join(sorted(str(dtype) for dtype in dtypes))
        raise KernelError(name, f"is {tensor.dtype}, not one of: {names}")


def require_capability(feature: str, device: torch.device, least: tuple[int, int]) -> None:
    """Raise KernelError on a CUDA device older than compute capability `least`."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < least:
        name = f"sm_{least[0]}{least[1]}"
        raise KernelError(feature, f"needs {name} or later: {torch.cuda.get_device_name(device)}")
