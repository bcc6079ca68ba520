"""`activation(gate) * up` (arXiv:2002.05202): compiled into one pass, or by torch in two."""

from __future__ import annotations

import ctypes
from typing import Any

import torch

from services.generator.model import native
from services.generator.model.activation import Activation, activation

_COMPILED = frozenset({"silu", "gelu_tanh"})
_DTYPES = frozenset({torch.float32, torch.bfloat16})


def gated_activation(
    name: str, dtype: torch.dtype, batch_invariant: bool = True, backend: str = "auto"
) -> Activation:
    """Return the map of contiguous [T, 2 * inner], the gate's columns first, to [T, inner].

    `auto` takes the compiled one, which is batch-invariant in any case, where there is a compiler;
    `torch` never does.
    """
    if backend == "auto" and name in _COMPILED and dtype in _DTYPES:
        library = native.library("gated_activation")
        if library is not None:
            return _Compiled(getattr(library, f"gated_{name}"))
    act = activation(name, batch_invariant)

    def gated(gate_up: torch.Tensor) -> torch.Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return act(gate).mul_(up)

    return gated


class _Compiled:
    def __init__(self, function: Any) -> None:
        pointer, count = ctypes.c_void_p, ctypes.c_int64
        function.argtypes = (pointer, pointer, count, count, ctypes.c_bool, ctypes.c_int)
        function.restype = None
        self._function = function

    def __call__(self, gate_up: torch.Tensor) -> torch.Tensor:
        rows, both = gate_up.shape
        assert gate_up.is_contiguous(), "a gated product is not contiguous. This is a bug."
        out = gate_up.new_empty(rows, both // 2)
        self._function(
            gate_up.data_ptr(),
            out.data_ptr(),
            rows,
            both // 2,
            gate_up.dtype == torch.bfloat16,
            torch.get_num_threads(),
        )
        return out
