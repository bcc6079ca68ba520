"""Linear layers of unquantised weights, by torch's library."""

import torch
from torch.nn import functional


class TorchLinear:
    """`x @ weight.T + bias` for [T, in] rows."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self._weight = weight.contiguous()
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Map [T, in] to [T, out]."""
        return functional.linear(x, self._weight, self._bias)

    def add_to(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Return `residual + self(x)`, added where the product ends, in the residual's memory."""
        if self._bias is not None:
            residual += self._bias
        return residual.addmm_(x, self._weight.t())

    def __repr__(self) -> str:
        rows, columns = self._weight.shape
        return f"TorchLinear({columns} -> {rows}, {self._weight.dtype})"
