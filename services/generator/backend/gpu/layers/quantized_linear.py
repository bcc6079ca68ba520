"""Linear layers of weights in eight and in four bits; nothing waits for the device."""

import abc

import torch

from services.generator.backend.gpu.triton.checks import require_capability
from services.generator.backend.gpu.triton.linear.int4_packing import pack_int4
from services.generator.backend.gpu.triton.linear.linear_fp8 import (
    LEAST_CAPABILITY,
    linear_fp8,
    quantize_fp8,
)
from services.generator.backend.gpu.triton.linear.linear_w4a16 import linear_w4a16
from services.generator.backend.gpu.triton.linear.linear_w8a16 import linear_w8a16
from services.generator.model.checkpoint.packed_weight import PackedWeight
from services.generator.model.quantize import quantize_rows


class QuantizedLinear(abc.ABC):
    """A linear layer whose product is in `x`'s dtype."""

    def __init__(self, shape: tuple[int, ...], bias: torch.Tensor | None) -> None:
        self.out_features, self.in_features = shape
        self._bias = bias

    @abc.abstractmethod
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Map [T, in] of float32, float16 or bfloat16 to [T, out] of the same."""

    def add_to(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Return `residual`, to which `self(x)` was added in place."""
        return residual.add_(self(x))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.in_features} -> {self.out_features})"


class Int8Linear(QuantizedLinear):
    """Weights [out, in] rounded at load, symmetric per output; rows stay as they are (W8A16)."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        super().__init__(weight.shape, bias)
        self._data, self._scales = quantize_rows(weight.contiguous())

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Map [T, in] of float32, float16 or bfloat16 to [T, out] of the same."""
        return linear_w8a16(x, self._data, self._scales, self._bias)


class Fp8Linear(QuantizedLinear):
    """Weights [out, in] rounded to E4M3 at load, per output; rows in each call, per row (W8A8).

    Raises KernelError on devices before sm_90.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        super().__init__(weight.shape, bias)
        require_capability("fp8", weight.device, LEAST_CAPABILITY)
        self._data, self._scales = quantize_fp8(weight.contiguous())

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Map [T, in] of float32, float16 or bfloat16 to [T, out] of the same."""
        rows, units = quantize_fp8(x)
        return linear_fp8(rows, self._data, units, self._scales, self._bias, x.dtype)


class PackedLinear(QuantizedLinear):
    """Four-bit weights of a checkpoint, in the kernel's order; rows stay as they are (W4A16)."""

    def __init__(self, weight: PackedWeight, bias: torch.Tensor | None = None) -> None:
        super().__init__(weight.shape, bias)
        self._words, self._units = pack_int4(*weight.unpacked(), weight.scales)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Map [T, in] of float32, float16 or bfloat16 to [T, out] of the same."""
        return linear_w4a16(x, self._words, self._units, self._bias)
