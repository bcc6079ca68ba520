"""The linear layer: what a decoder asks of a matrix product, whatever its weights are kept in."""

from typing import Protocol

import torch


class Linear(Protocol):
    """`x @ weight.T + bias` for [T, in] rows."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Map [T, in] to [T, out]."""
        ...

    def add_to(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Return `residual + self(x)`; `residual` is [T, out]."""
        ...
