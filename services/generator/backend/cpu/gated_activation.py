"""Gated activation, `activation(gate) * up` (arXiv:2002.05202): compiled, else by torch."""

import ctypes

import torch

from services.generator.backend.cpu.native import compiler
from services.generator.backend.cpu.program import KernelCall, Program, find_kernel
from services.generator.model.activation import Activation, activation

_FUNCTIONS = ("silu", "gelu_tanh")  # of the source, in its order
_DTYPES = frozenset({torch.float32, torch.bfloat16})


def gated_activation(
    name: str, dtype: torch.dtype, batch_invariant: bool = True, kernels: str = "auto"
) -> Activation:
    """Return the map of contiguous [T, 2 * inner], the gate's columns first, to [T, inner].

    `auto` takes the compiled one, which is batch-invariant in any case, where there is a compiler;
    `torch` never does.
    """
    if kernels == "auto" and name in _FUNCTIONS and dtype in _DTYPES:
        library = compiler.library("gated_activation")
        if library is not None:
            return CompiledGate(library, name)
    act = activation(name, batch_invariant)

    def gated(gate_up: torch.Tensor) -> torch.Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return act(gate).mul_(up)

    return gated


class _Gate(ctypes.Structure):
    """Mirrors `struct Gate` of gated_activation.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("gate_up", "out", "rows")),
        ("width", ctypes.c_int64),
        ("function", ctypes.c_int32),
        ("is_bfloat16", ctypes.c_bool),
    )


class CompiledGate:
    """The one pass."""

    def __init__(self, library: ctypes.CDLL, name: str) -> None:
        self._kernel = find_kernel(library, "gated_activation")
        self._function = _FUNCTIONS.index(name)

    def calls(
        self, gate_up: torch.Tensor, out: torch.Tensor, rows: ctypes.c_int64
    ) -> list[KernelCall]:
        """Return what maps the first `rows` rows of contiguous `gate_up` to `out`."""
        arguments = _Gate(
            gate_up=gate_up.data_ptr(),
            out=out.data_ptr(),
            rows=ctypes.addressof(rows),
            width=gate_up.shape[1] // 2,
            function=self._function,
            is_bfloat16=gate_up.dtype == torch.bfloat16,
        )
        return [KernelCall(self._kernel, arguments)]

    def __call__(self, gate_up: torch.Tensor) -> torch.Tensor:
        assert gate_up.is_contiguous(), "a gated product is not contiguous. This is a bug."
        rows = ctypes.c_int64(len(gate_up))
        out = gate_up.new_empty(len(gate_up), gate_up.shape[1] // 2)
        Program(self.calls(gate_up, out, rows)).run()
        return out
