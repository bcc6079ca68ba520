"""Linear layers of int8 weights with rows that are quantised on the way (W8A8).

Weights are symmetric per output and rounded once, at load; activations are symmetric per row and
rounded in each call. The sums are integers, so a row's result is the same in any batch.
"""

import ctypes
import functools

import torch

from services.generator.backend.cpu.huge_pages import HugePages
from services.generator.backend.cpu.linear.native_linear import NativeLinear
from services.generator.backend.cpu.native import compiler
from services.generator.backend.cpu.program import KernelCall, find_kernel
from services.generator.model.linear import Linear
from services.generator.model.quantize import quantize_rows

_LANES = 16  # of the source: outputs of a panel
# Inputs whose products a float32 adds up exactly: 127 * 127 * 1024 is less than 2**24.
_EXACT_INPUTS = 1024


class _Weight(ctypes.Structure):
    """Mirrors `struct Weight` of int8_linear.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("data", "scales", "bias")),
        *((name, ctypes.c_int64) for name in ("inputs", "outputs")),
    )


class _Product(ctypes.Structure):
    """Mirrors `struct Product` of int8_linear.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "x", "data", "sums", "units")),
        *((name, ctypes.c_void_p) for name in ("residual", "out", "rows")),
        ("x_stride", ctypes.c_int64),
        ("is_bfloat16", ctypes.c_bool),
    )


def int8_linear(
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    kernels: str = "auto",
    memory: HugePages | None = None,
) -> Linear:
    """Return `x @ weight.T + bias` for [T, in] rows, its weight [out, in] rounded to int8.

    `kernels` torch keeps to torch's operations where auto takes the compiled kernel.
    """
    library = None if kernels == "torch" else compiler.library("int8_linear")
    if library is None or not library.int8_serves():
        return TorchInt8Linear(weight, bias)
    return NativeInt8Linear(library, weight, bias, memory or HugePages())


class NativeInt8Linear(NativeLinear):
    """The product by the compiled kernel, for processors with AVX512-VNNI."""

    def __init__(
        self,
        library: ctypes.CDLL,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        memory: HugePages,
    ) -> None:
        super().__init__(weight)
        library.int8_pack.restype = None
        library.int8_pack.argtypes = (
            *[ctypes.c_void_p] * 2, ctypes.c_int64, ctypes.c_bool, ctypes.c_int,
        )  # fmt: skip
        self._quantize = find_kernel(library, "int8_quantize")
        self._product = find_kernel(library, "int8_product")
        panels = -(-self.out_features // _LANES)
        steps = -(-self.in_features // 4)
        self._data = memory.zeros((panels, steps, _LANES, 4), torch.uint8)
        self._scales = torch.empty(panels * _LANES)
        self._bias = bias
        self._weight = _Weight(
            data=self._data.data_ptr(),
            scales=self._scales.data_ptr(),
            bias=None if bias is None else bias.data_ptr(),
            inputs=self.in_features,
            outputs=self.out_features,
        )
        rows = weight if weight.stride(1) == 1 else weight.contiguous()
        library.int8_pack(
            ctypes.addressof(self._weight),
            rows.data_ptr(),
            rows.stride(0),
            weight.dtype == torch.bfloat16,
            torch.get_num_threads(),
        )

    def scratch_bytes(self, num_rows: int) -> int:
        """Return the size of the rows' units, sums and bytes."""
        return num_rows * (8 + self._width)

    @property
    def _width(self) -> int:
        return -(-self.in_features // _LANES) * _LANES

    def calls(
        self,
        x: torch.Tensor,
        out: torch.Tensor,
        rows: ctypes.c_int64,
        scratch: torch.Tensor,
        residual: torch.Tensor | None = None,
    ) -> list[KernelCall]:
        """See `NativeLinear`."""
        room = len(scratch) // (8 + self._width)
        arguments = _Product(
            weight=ctypes.addressof(self._weight),
            x=x.data_ptr(),
            data=scratch.data_ptr(),
            sums=scratch.data_ptr() + room * self._width,
            units=scratch.data_ptr() + room * (self._width + 4),
            residual=None if residual is None else residual.data_ptr(),
            out=out.data_ptr(),
            rows=ctypes.addressof(rows),
            x_stride=x.stride(0),
            is_bfloat16=self._dtype == torch.bfloat16,
        )
        return [KernelCall(self._quantize, arguments), KernelCall(self._product, arguments)]


class TorchInt8Linear:
    """The same integers by torch's operations; slower, for processors the kernel does not know."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.out_features, self.in_features = weight.shape
        data, self._scales = quantize_rows(weight)
        self._data = data.t().contiguous()
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Map [T, in] to [T, out]."""
        return self._sum(x).to(x.dtype)

    def add_to(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Return `residual + self(x)`, rounded once."""
        return self._sum(x).add_(residual).to(x.dtype)

    def _sum(self, x: torch.Tensor) -> torch.Tensor:
        data, units = quantize_rows(x)
        product = _float_product if _int_mm_saturates() else torch._int_mm
        sums = product(data, self._data)
        scaled = sums.float().mul_(units.unsqueeze(1) * self._scales)
        return scaled if self._bias is None else scaled.add_(self._bias)

    def __repr__(self) -> str:
        return f"TorchInt8Linear({self.in_features} -> {self.out_features})"


@functools.cache
def _int_mm_saturates() -> bool:
    """Return whether torch's int8 product is wrong here.

    Where the processor has no VNNI, oneDNN adds pairs of products in 16 bits, which clips them.
    """
    most = torch.full((64, 64), 127, dtype=torch.int8)
    exact = 127 * 127 * 64
    return any(bool((torch._int_mm(rows, most) != exact).any()) for rows in (most, most[:1]))


def _float_product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the int32 product of int8 [T, in] and [in, out], by floats that round nothing."""
    sums = torch.zeros(x.shape[0], weight.shape[1], dtype=torch.int32)
    for start in range(0, x.shape[1], _EXACT_INPUTS):
        some = slice(start, start + _EXACT_INPUTS)
        sums += (x[:, some].float() @ weight[some].float()).to(torch.int32)
    return sums
