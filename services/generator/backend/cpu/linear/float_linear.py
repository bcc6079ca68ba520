"""Linear layers of float32 rows, with weights kept in 32 or 16 bits and widened in registers.

Where a processor multiplies no bfloat16, this reads as few bytes and rounds less: rows, sums and
what layers hand on stay float32.
"""

import ctypes

import torch

from services.generator.backend.cpu.huge_pages import HugePages
from services.generator.backend.cpu.linear.native_linear import NativeLinear
from services.generator.backend.cpu.native import compiler
from services.generator.backend.cpu.program import KernelCall, Program, find_kernel

# of the source's enum, in its order
_FORMATS = (torch.float32, torch.bfloat16, torch.float16)


class _Weight(ctypes.Structure):
    """Mirrors `struct Weight` of float_linear.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("data", "bias")),
        *((name, ctypes.c_int64) for name in ("inputs", "outputs")),
        ("format", ctypes.c_int32),
    )


class _Product(ctypes.Structure):
    """Mirrors `struct Product` of float_linear.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "x", "residual", "out", "rows")),
        ("x_stride", ctypes.c_int64),
    )


class _Pack(ctypes.Structure):
    """Mirrors `struct Pack` of float_linear.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "source")),
        ("stride", ctypes.c_int64),
    )


def float_linear(
    weight: torch.Tensor, bias: torch.Tensor | None = None, memory: HugePages | None = None
) -> "NativeFloatLinear | None":
    """Return `x @ weight.T + bias` for float32 [T, in] rows, or None where nothing is compiled.

    The [out, in] weight is kept in its own dtype.
    """
    library = compiler.library("float_linear")
    if library is None or weight.dtype not in _FORMATS:
        return None
    return NativeFloatLinear(library, weight, bias, memory or HugePages())


class NativeFloatLinear(NativeLinear):
    """A product whose weight, repacked once, is read in one stream."""

    def __init__(
        self,
        library: ctypes.CDLL,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        memory: HugePages,
    ) -> None:
        super().__init__(weight, torch.float32)
        library.float_linear_bytes.restype = ctypes.c_int64
        library.float_linear_bytes.argtypes = (ctypes.c_void_p,)
        self.weight_dtype = weight.dtype
        self._product = find_kernel(library, "float_linear")
        self._bias = None if bias is None else bias.float().contiguous()
        self._weight = _Weight(
            bias=None if self._bias is None else self._bias.data_ptr(),
            inputs=self.in_features,
            outputs=self.out_features,
            format=_FORMATS.index(weight.dtype),
        )
        num_bytes = library.float_linear_bytes(ctypes.addressof(self._weight))
        self._data = memory.zeros((num_bytes,), torch.uint8)
        self._weight.data = self._data.data_ptr()
        rows = weight if weight.stride(1) == 1 else weight.contiguous()
        pack = _Pack(ctypes.addressof(self._weight), rows.data_ptr(), rows.stride(0))
        Program([KernelCall(find_kernel(library, "float_linear_pack"), pack)]).run()

    @property
    def kind(self) -> str:
        """See `Linear`."""
        return f"{str(self.weight_dtype).removeprefix('torch.')} weights widened by float_linear"

    def scratch_bytes(self, num_rows: int) -> int:
        """Return 0: rows are read as they are."""
        return 0

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
            residual=None if residual is None else residual.data_ptr(),
            out=out.data_ptr(),
            rows=ctypes.addressof(rows),
            x_stride=x.stride(0),
        )
        return [KernelCall(self._product, arguments)]
