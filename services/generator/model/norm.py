"""Norms of hidden states: what every norm maps, and LayerNorm. RMSNorm is a part of a backend."""

from collections.abc import Callable

import torch
from torch.nn import functional

Norm = Callable[[torch.Tensor], torch.Tensor]  # [T, hidden] to the same


class LayerNorm:
    """`(x - mean(x)) / std(x) * weight + bias` (arXiv:1607.06450)."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> None:
        self._weight = weight
        self._bias = bias
        self._eps = eps

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x, self._weight.shape, self._weight, self._bias, self._eps)
