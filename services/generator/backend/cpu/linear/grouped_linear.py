"""Linear layers of weights in 4 or 8 bits, in groups, with rows that are quantised on the way.

Rows become 8 bits in blocks of 32 inputs. The sums of a block are integers and blocks are added in
their order, so a row's result is the same in any batch.
"""

import ctypes

import torch

from services.generator.backend.cpu.huge_pages import HugePages
from services.generator.backend.cpu.linear.native_linear import NativeLinear
from services.generator.backend.cpu.native import compiler
from services.generator.backend.cpu.program import KernelCall, Program, find_kernel
from services.generator.model.checkpoint.grouped_weight import GroupedWeight

_DTYPES = frozenset({torch.float32, torch.bfloat16})


class _Weight(ctypes.Structure):
    """Mirrors `struct Weight` of grouped_linear.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("data", "bias")),
        *((name, ctypes.c_int64) for name in ("inputs", "outputs")),
        *((name, ctypes.c_int32) for name in ("bits", "group_size", "zero")),
        *((name, ctypes.c_bool) for name in ("has_offsets", "has_half_scales")),
    )


class _Product(ctypes.Structure):
    """Mirrors `struct Product` of grouped_linear.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "x", "scratch", "residual", "out")),
        ("rows", ctypes.c_void_p),
        ("x_stride", ctypes.c_int64),
        *((name, ctypes.c_bool) for name in ("is_bfloat16", "is_exact")),
    )


class _Pack(ctypes.Structure):
    """Mirrors `struct Pack` of grouped_linear.cpp."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in ("weight", "values", "scales", "offsets"))


def grouped_linear(
    weight: GroupedWeight,
    dtype: torch.dtype,
    bias: torch.Tensor | None = None,
    memory: HugePages | None = None,
    exact: bool = False,
) -> "NativeGroupedLinear | None":
    """Return `x @ weight.T + bias` for [T, in] rows of `dtype`, None where nothing is compiled.

    Where `exact`, rows are not rounded.
    """
    library = compiler.library("grouped_linear")
    if library is None or dtype not in _DTYPES:
        return None
    return NativeGroupedLinear(library, weight, dtype, bias, memory or HugePages(), exact)


class NativeGroupedLinear(NativeLinear):
    """A product whose weight, repacked once, is read in one stream."""

    def __init__(
        self,
        library: ctypes.CDLL,
        weight: GroupedWeight,
        dtype: torch.dtype,
        bias: torch.Tensor | None,
        memory: HugePages,
        exact: bool,
    ) -> None:
        super().__init__(weight.values, dtype)
        self._exact = exact
        self.bits = weight.bits
        size, scratch = library.grouped_linear_bytes, library.grouped_linear_scratch
        size.restype, size.argtypes = ctypes.c_int64, (ctypes.c_void_p,)
        scratch.restype, scratch.argtypes = ctypes.c_int64, (ctypes.c_void_p, ctypes.c_bool)
        self._quantize = find_kernel(library, "grouped_linear_quantize")
        self._product = find_kernel(library, "grouped_linear")
        self._bias = None if bias is None else bias.float().contiguous()
        values, scales = weight.values.contiguous(), weight.scales.float().contiguous()
        offsets = None if weight.offsets is None else weight.offsets.float().contiguous()
        self._weight = _Weight(
            bias=None if self._bias is None else self._bias.data_ptr(),
            inputs=self.in_features,
            outputs=self.out_features,
            bits=weight.bits,
            group_size=weight.group_size,
            zero=8 if weight.bits == 4 and bool((values < 0).any()) else 0,
            has_offsets=offsets is not None,
            has_half_scales=_are_halves(scales) and (offsets is None or _are_halves(offsets)),
        )
        address = ctypes.addressof(self._weight)
        self._data = memory.zeros((size(address),), torch.uint8)
        self._weight.data = self._data.data_ptr()
        self._row_bytes = int(scratch(address, exact))
        pack = _Pack(
            weight=address,
            values=values.data_ptr(),
            scales=scales.data_ptr(),
            offsets=None if offsets is None else offsets.data_ptr(),
        )
        Program([KernelCall(find_kernel(library, "grouped_linear_pack"), pack)]).run()

    @property
    def kind(self) -> str:
        """See `Linear`."""
        rows = "float32" if self._exact else "8-bit"
        return f"{self.bits}-bit weights with {rows} rows by grouped_linear"

    def scratch_bytes(self, num_rows: int) -> int:
        """Return the size of the rows' values, units and totals."""
        return num_rows * self._row_bytes

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
            scratch=scratch.data_ptr(),
            residual=None if residual is None else residual.data_ptr(),
            out=out.data_ptr(),
            rows=ctypes.addressof(rows),
            x_stride=x.stride(0),
            is_bfloat16=self._dtype == torch.bfloat16,
            is_exact=self._exact,
        )
        return [KernelCall(self._quantize, arguments), KernelCall(self._product, arguments)]

    def __repr__(self) -> str:
        sizes = f"{self.in_features} -> {self.out_features}"
        return f"NativeGroupedLinear({sizes}, {self.bits} bits)"


def _are_halves(x: torch.Tensor) -> bool:
    """Return whether float16 holds every number, so that they take half the bytes."""
    return bool((x == x.to(torch.float16)).all())
