"""Normalisations: root mean square (arXiv:1910.07467), Gemma's form of it, and layer."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch
from torch.nn import functional

from services.generator.model import native

Norm = Callable[[torch.Tensor], torch.Tensor]  # [T, hidden] to the same

_DTYPES = frozenset({torch.float32, torch.bfloat16})


class RMSNorm:
    """`x / rms(x) * weight` in float32, compiled where there is a compiler.

    `weight` is [hidden] of any dtype; `backend` torch keeps to torch's operations.
    """

    def __init__(self, weight: torch.Tensor, eps: float, backend: str = "auto") -> None:
        self._weight = weight.float().contiguous()
        self._eps = eps
        library = native.library("rms_norm") if backend == "auto" else None
        self._kernel = None if library is None else library.rms_norm
        if self._kernel is not None:
            pointer, count = ctypes.c_void_p, ctypes.c_int64
            self._kernel.restype = None
            self._kernel.argtypes = (
                pointer, pointer, pointer, count, count, count,
                ctypes.c_float, ctypes.c_bool, ctypes.c_int,
            )  # fmt: skip

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self._kernel is None or x.stride(1) != 1 or x.dtype not in _DTYPES:
            out = functional.rms_norm(x.float(), self._weight.shape, self._weight, self._eps)
            return out.to(x.dtype)
        rows, width = x.shape
        out = x.new_empty(rows, width)
        self._kernel(
            x.data_ptr(),
            self._weight.data_ptr(),
            out.data_ptr(),
            rows,
            width,
            x.stride(0),
            self._eps,
            x.dtype == torch.bfloat16,
            torch.get_num_threads(),
        )
        return out


def offset_rms_norm(weight: torch.Tensor, eps: float) -> RMSNorm:
    """Return `x / rms(x) * (1 + weight)`, where a weight near zero keeps its digits (Gemma)."""
    return RMSNorm(1.0 + weight.float(), eps)


class LayerNorm:
    """`(x - mean(x)) / std(x) * weight + bias` (arXiv:1607.06450)."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> None:
        self._weight = weight
        self._bias = bias
        self._eps = eps

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x, self._weight.shape, self._weight, self._bias, self._eps)
