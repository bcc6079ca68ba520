"""Calls of compiled kernels, made once and run in one go.

A decode step of a small model is hundreds of calls of microseconds. Made one by one from Python,
each pays for its arguments, for the interpreter's lock and for a team of threads to gather.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import torch

from services.generator.model import native


class Kernel(NamedTuple):
    """The addresses of a kernel's two functions, see kernel.h."""

    items: int | None
    run: int | None


class KernelCall(NamedTuple):
    """A kernel with its arguments, which hold plain addresses: who makes it keeps the memory."""

    kernel: Kernel
    arguments: ctypes.Structure


class _Call(ctypes.Structure):
    """Mirrors `struct Call` of program.cpp."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in ("items", "run", "arguments"))


def find_kernel(library: ctypes.CDLL, name: str) -> Kernel:
    """Return a kernel that the library exports."""
    functions = (getattr(library, f"{name}_{part}") for part in Kernel._fields)
    return Kernel(*(ctypes.cast(function, ctypes.c_void_p).value for function in functions))


class Program:
    """Runs its calls in their order; each sees what those before it wrote."""

    def __init__(self, calls: Sequence[KernelCall]) -> None:
        library = native.library("program")
        assert library is not None, "kernels without a program to run them. This is a bug."
        self._run = library.program_run
        self._run.restype = None
        self._run.argtypes = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int)
        self._arguments = [call.arguments for call in calls]
        self._calls = (_Call * len(calls))(
            *(_Call(*call.kernel, ctypes.addressof(call.arguments)) for call in calls)
        )

    def run(self) -> None:
        """Run all calls on torch's number of threads."""
        self._run(self._calls, len(self._calls), torch.get_num_threads())

    def __repr__(self) -> str:
        return f"Program({len(self._calls)} calls)"
