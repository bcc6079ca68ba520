"""RMS norm (arXiv:1910.07467) by a compiled kernel, else by torch's operations."""

import ctypes

import torch
from torch.nn import functional

from services.generator.backend.cpu.native import compiler
from services.generator.backend.cpu.program import KernelCall, Program, find_kernel

_DTYPES = frozenset({torch.float32, torch.bfloat16})


class _Norm(ctypes.Structure):
    """Mirrors `struct Norm` of rms_norm.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "weight", "residual", "out", "rows")),
        *((name, ctypes.c_int64) for name in ("width", "stride")),
        ("eps", ctypes.c_float),
        ("is_bfloat16", ctypes.c_bool),
    )


class RMSNorm:
    """`x / rms(x) * weight` in float32, compiled where there is a compiler.

    `weight` is [hidden] of any dtype; `kernels` torch keeps to torch's operations.
    """

    def __init__(self, weight: torch.Tensor, eps: float, kernels: str = "auto") -> None:
        self._weight = weight.float().contiguous()
        self._eps = eps
        library = compiler.library("rms_norm") if kernels == "auto" else None
        self._kernel = None if library is None else find_kernel(library, "rms_norm")

    @property
    def is_compiled(self) -> bool:
        """Return whether `calls` can be asked for."""
        return self._kernel is not None

    def calls(
        self,
        x: torch.Tensor,
        out: torch.Tensor,
        rows: ctypes.c_int64,
        residual: torch.Tensor | None = None,
    ) -> list[KernelCall]:
        """Return what writes the first `rows` rows of `x` to `out`, normalised.

        Where there is a residual, the result is rounded and added to it; it may be `out` itself.
        """
        assert self._kernel is not None, "a norm that is not compiled was recorded. This is a bug."
        arguments = _Norm(
            x=x.data_ptr(),
            weight=self._weight.data_ptr(),
            residual=None if residual is None else residual.data_ptr(),
            out=out.data_ptr(),
            rows=ctypes.addressof(rows),
            width=len(self._weight),
            stride=x.stride(0),
            eps=self._eps,
            is_bfloat16=x.dtype == torch.bfloat16,
        )
        return [KernelCall(self._kernel, arguments)]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if not self.is_compiled or x.stride(1) != 1 or x.dtype not in _DTYPES:
            out = functional.rms_norm(x.float(), self._weight.shape, self._weight, self._eps)
            return out.to(x.dtype)
        rows = ctypes.c_int64(len(x))
        out = x.new_empty(x.shape)
        Program(self.calls(x, out, rows)).run()
        return out
