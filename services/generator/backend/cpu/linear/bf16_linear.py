"""Linear layers in bfloat16 by our own kernel, the same bits for a row in any batch.

For processors with AVX512_BF16 and without AMX, whose tiles only oneDNN uses.
"""

import ctypes

import torch

from services.generator.backend.cpu.huge_pages import HugePages
from services.generator.backend.cpu.linear.native_linear import NativeLinear
from services.generator.backend.cpu.native import compiler
from services.generator.backend.cpu.program import KernelCall, Program, find_kernel

_PANEL = 32  # of the source: outputs side by side


class _Weight(ctypes.Structure):
    """Mirrors `struct Weight` of bf16_linear.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("data", "bias")),
        *((name, ctypes.c_int64) for name in ("inputs", "outputs")),
    )


class _Product(ctypes.Structure):
    """Mirrors `struct Product` of bf16_linear.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "x", "pairs", "residual", "out", "rows")),
        ("x_stride", ctypes.c_int64),
    )


class _Pack(ctypes.Structure):
    """Mirrors `struct Pack` of bf16_linear.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "source")),
        ("stride", ctypes.c_int64),
    )


def bf16_linear(
    weight: torch.Tensor, bias: torch.Tensor | None = None, memory: HugePages | None = None
) -> "NativeBf16Linear | None":
    """Return `x @ weight.T + bias` for [T, in] rows, or None where another product is better."""
    if weight.dtype != torch.bfloat16 or weight.shape[1] % 2 or torch.cpu._is_amx_tile_supported():
        return None
    library = compiler.library("bf16_linear")
    if library is None or not library.bf16_serves():
        return None
    return NativeBf16Linear(library, weight, bias, memory or HugePages())


class NativeBf16Linear(NativeLinear):
    """A product whose weight, repacked once, is read in one stream."""

    def __init__(
        self,
        library: ctypes.CDLL,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        memory: HugePages,
    ) -> None:
        super().__init__(weight)
        self._gather = find_kernel(library, "bf16_gather")
        self._product = find_kernel(library, "bf16_product")
        panels = -(-self.out_features // _PANEL)
        self._data = memory.zeros((panels * _PANEL * self.in_features,), torch.bfloat16)
        self._bias = bias
        self._weight = _Weight(
            data=self._data.data_ptr(),
            bias=None if bias is None else bias.data_ptr(),
            inputs=self.in_features,
            outputs=self.out_features,
        )
        rows = weight if weight.stride(1) == 1 else weight.contiguous()
        pack = _Pack(ctypes.addressof(self._weight), rows.data_ptr(), rows.stride(0))
        Program([KernelCall(find_kernel(library, "bf16_pack"), pack)]).run()

    @property
    def kind(self) -> str:
        """See `Linear`."""
        return "bfloat16 weights by bf16_linear"

    def scratch_bytes(self, num_rows: int) -> int:
        """Return the size of the rows as pairs."""
        return num_rows * self.in_features * 2

    def calls(
        self,
        x: torch.Tensor,
        out: torch.Tensor,
        rows: ctypes.c_int64,
        scratch: torch.Tensor,
        residual: torch.Tensor | None = None,
    ) -> list[KernelCall]:
        """See `NativeLinear`."""
        arguments = _Product(
            weight=ctypes.addressof(self._weight),
            x=x.data_ptr(),
            pairs=scratch.data_ptr(),
            residual=None if residual is None else residual.data_ptr(),
            out=out.data_ptr(),
            rows=ctypes.addressof(rows),
            x_stride=x.stride(0),
        )
        return [KernelCall(self._gather, arguments), KernelCall(self._product, arguments)]
