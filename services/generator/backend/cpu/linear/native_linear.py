"""Linear layers by compiled kernels: what they have in common."""

import abc
import ctypes

import torch

from services.generator.backend.cpu.program import KernelCall, Program


class NativeLinear(abc.ABC):
    """A `Linear` that can be recorded; it says which kernels it takes."""

    def __init__(self, weight: torch.Tensor, dtype: torch.dtype | None = None) -> None:
        """`dtype` is that of rows, the weight's if None."""
        self.out_features, self.in_features = weight.shape
        self._dtype = dtype or weight.dtype

    @property
    @abc.abstractmethod
    def kind(self) -> str:
        """What its weights are kept in and what multiplies them, in words."""

    @abc.abstractmethod
    def scratch_bytes(self, num_rows: int) -> int:
        """Return the bytes that `calls` need beside their rows."""

    @abc.abstractmethod
    def calls(
        self,
        x: torch.Tensor,
        out: torch.Tensor,
        rows: ctypes.c_int64,
        scratch: torch.Tensor,
        residual: torch.Tensor | None = None,
    ) -> list[KernelCall]:
        """Return what writes `x @ weight.T + bias + residual` to `out`, rounded once.

        Of `x` [.., in] and `out` [.., out] the first `rows` rows are meant, as many as it says when
        the calls are run. The residual may be `out` itself.
        """

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Map [T, in] to [T, out]."""
        return self._run(x, None)

    def add_to(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Return `residual + self(x)`, rounded once; `residual` is [T, out]."""
        return self._run(x, residual.contiguous())

    def _run(self, x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        assert x.dtype == self._dtype and x.stride(1) == 1, "rows the kernel cannot read"
        rows = ctypes.c_int64(len(x))
        out = x.new_empty(len(x), self.out_features)
        scratch = torch.empty(self.scratch_bytes(len(x)), dtype=torch.uint8)
        Program(self.calls(x, out, rows, scratch, residual)).run()
        return out

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.in_features} -> {self.out_features})"
