"""Program of kernel calls: made once and run in one go.

A decode step of a small model is hundreds of calls of microseconds. Made one by one from Python,
each pays for its arguments, for the interpreter's lock and for a team of threads to gather.
"""

import ctypes
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from services.generator.backend.cpu.native import compiler


class Kernel(NamedTuple):
    """A kernel's name and the addresses of its two functions, see kernel.h."""

    name: str
    items: int | None
    run: int | None


class KernelCall(NamedTuple):
    """A kernel with its arguments, which hold plain addresses: who makes it keeps the memory."""

    kernel: Kernel
    arguments: ctypes.Structure


class _Call(ctypes.Structure):
    """Mirrors `struct Call` of program.cpp."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in ("items", "run", "arguments"))


_Callback = ctypes.CFUNCTYPE(None)
_NOTHING = _Callback()


def find_kernel(library: ctypes.CDLL, name: str) -> Kernel:
    """Return a kernel that the library exports."""
    functions = (getattr(library, f"{name}_{part}") for part in ("items", "run"))
    return Kernel(name, *(ctypes.cast(each, ctypes.c_void_p).value for each in functions))


class Program:
    """Runs its calls in their order; each sees what those before it wrote."""

    def __init__(self, calls: Sequence[KernelCall]) -> None:
        library = compiler.library("program")
        assert library is not None, "kernels without a program to run them. This is a bug."
        self._run = library.program_run
        self._run.restype = None
        self._run.argtypes = (
            *(ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, _Callback, ctypes.c_void_p),
        )
        self.calls = calls
        self._array = (_Call * len(calls))(
            *(_Call(k.items, k.run, ctypes.addressof(arguments)) for k, arguments in calls)
        )

    def run(self, overlap: Callable[[], None] | None = None) -> None:
        """Run all calls on torch's number of threads.

        This one calls `overlap` before it joins the others, and raises what that raised after
        all calls are done.
        """
        faults: list[BaseException] = []

        def call() -> None:
            try:
                if overlap is not None:
                    overlap()
            except BaseException as fault:
                faults.append(fault)

        callback = _NOTHING if overlap is None else _Callback(call)
        team = compiler.parallel()
        self._run(self._array, len(self._array), torch.get_num_threads(), callback, team)
        if faults:
            raise faults[0]

    def __repr__(self) -> str:
        return f"Program({len(self.calls)} calls)"
