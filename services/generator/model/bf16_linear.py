"""Matrix products in bfloat16 by our own kernel, the same bits for a row in any batch.

For processors with AVX512_BF16 and without AMX, whose tiles only oneDNN uses.
"""

from __future__ import annotations

import ctypes

import torch

from services.generator.model import native

_PANEL = 32  # of the source: outputs side by side


class _Weight(ctypes.Structure):
    """Mirrors `struct Weight` of bf16_linear.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("data", "bias")),
        *((name, ctypes.c_int64) for name in ("inputs", "outputs")),
    )


def bf16_linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> NativeBf16Linear | None:
    """Return `x @ weight.T + bias` for [T, in] rows, or None where another product is better."""
    if weight.dtype != torch.bfloat16 or weight.shape[1] % 2 or torch.cpu._is_amx_tile_supported():
        return None
    library = native.library("bf16_linear")
    if library is None or not library.bf16_serves():
        return None
    return NativeBf16Linear(library, weight, bias)


class NativeBf16Linear:
    """A `Projection` whose weight, repacked once, is read in one stream."""

    def __init__(
        self, library: ctypes.CDLL, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> None:
        self.out_features, self.in_features = weight.shape
        pointer, count = ctypes.c_void_p, ctypes.c_int64
        library.bf16_pack.restype = library.bf16_linear.restype = None
        library.bf16_pack.argtypes = (pointer, pointer, count, ctypes.c_int)
        library.bf16_linear.argtypes = (*[pointer] * 4, count, count, ctypes.c_int)
        self._kernel = library.bf16_linear
        panels = -(-self.out_features // _PANEL)
        self._data = torch.empty(panels * _PANEL * self.in_features, dtype=torch.bfloat16)
        self._bias = bias
        self._weight = _Weight(
            data=self._data.data_ptr(),
            bias=None if bias is None else bias.data_ptr(),
            inputs=self.in_features,
            outputs=self.out_features,
        )
        self._address = ctypes.addressof(self._weight)
        rows = weight if weight.stride(1) == 1 else weight.contiguous()
        library.bf16_pack(self._address, rows.data_ptr(), rows.stride(0), torch.get_num_threads())

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Map [T, in] to [T, out]."""
        return self._run(x, None)

    def add_to(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Return `residual + self(x)`, rounded once; `residual` is [T, out]."""
        return self._run(x, residual.contiguous())

    def _run(self, x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        assert x.dtype == torch.bfloat16 and x.stride(1) == 1, "rows the kernel cannot read"
        out = x.new_empty(x.shape[0], self.out_features)
        self._kernel(
            self._address,
            x.data_ptr(),
            None if residual is None else residual.data_ptr(),
            out.data_ptr(),
            x.shape[0],
            x.stride(0),
            torch.get_num_threads(),
        )
        return out

    def __repr__(self) -> str:
        return f"NativeBf16Linear({self.in_features} -> {self.out_features})"
