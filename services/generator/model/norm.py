"""Normalisations: root mean square (arXiv:1910.07467), Gemma's form of it, and layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

Norm = Callable[[torch.Tensor], torch.Tensor]  # [T, hidden] to the same


class RMSNorm:
    """`x / rms(x) * weight`."""

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        self._weight = weight
        self._eps = eps

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(x, self._weight.shape, self._weight, self._eps)


class OffsetRMSNorm:
    """`x / rms(x) * (1 + weight)` in float32, where a weight near zero keeps its digits (Gemma)."""

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        self._weight = 1.0 + weight.float()
        self._eps = eps

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        out = functional.rms_norm(x.float(), self._weight.shape, self._weight, self._eps)
        return out.to(x.dtype)


class LayerNorm:
    """`(x - mean(x)) / std(x) * weight + bias` (arXiv:1607.06450)."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> None:
        self._weight = weight
        self._bias = bias
        self._eps = eps

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x, self._weight.shape, self._weight, self._bias, self._eps)
