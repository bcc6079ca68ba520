"""Processor of ARM's kind, emulated: kernels are cross-compiled and run under qemu-user.

Correctness is all that this can tell. The classes around the kernels run here, on this processor.
"""

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.generator.backend.cpu.native import compiler, levels
from services.generator.backend.cpu.native.levels import Level
from tests.generator.backend.cpu.native import guest

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
LEVELS = tuple(level for level in levels.LEVELS if level.machine == "aarch64")
NEEDS = pytest.mark.skipif(
    not all(map(shutil.which, (COMPILER, EMULATOR))), reason=f"needs {COMPILER} and {EMULATOR}"
)
_LIBRARIES = "/usr/aarch64-linux-gnu"
# without the dot product, and with all that there is
_CPUS = {"neon": "cortex-a53", "neon_dotprod": "max"}
# whoever calls a function of fewer arguments sets its types
_Function = ctypes.CFUNCTYPE(
    ctypes.c_int64,
    *(ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p),
)
_Query = ctypes.CFUNCTYPE(ctypes.c_int64)


class Emulator:
    """Kernels of every ARM level in place of this processor's, until it is closed."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self._folder = folder
        self._memory = guest.Memory()
        self._libraries: dict[tuple[str, Level], EmulatedLibrary] = {}
        self._guests: dict[Level, guest.Guest] = {}
        self._memory.watch(patch)
        cross = compiler._Compiler((COMPILER,))
        patch.setattr(compiler, "_compiler", lambda: cross)
        patch.setattr(compiler, "_library", self._library)
        patch.setattr(levels, "available", lambda: LEVELS)
        patch.setattr(levels, "_is_chosen", False)

    def close(self) -> None:
        """End the processes."""
        for each in self._guests.values():
            each.close()

    def _library(self, name: str, level: Level) -> "EmulatedLibrary":
        if (name, level) not in self._libraries:
            process = self._guest(level)
            self._libraries[name, level] = EmulatedLibrary(process)
        return self._libraries[name, level]

    def _guest(self, level: Level) -> guest.Guest:
        if level not in self._guests:
            libraries = [str(compiler._compiled(name, level)) for name in compiler.SOURCES]
            command = [EMULATOR, "-cpu", _CPUS[level.name], "-L", _LIBRARIES]
            command += [str(self._executable()), *libraries]
            self._guests[level] = guest.Guest(command, self._memory)
        return self._guests[level]

    def _executable(self) -> Path:
        target = self._folder / "guest"
        if not target.exists():
            flags = ("-O1", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-pthread")
            command = [COMPILER, *flags, "-o", str(target), str(guest.SOURCE), "-ldl"]
            subprocess.run(command, check=True, timeout=60)
        return target


_names: dict[int, str] = {}  # of functions, by their addresses


class EmulatedLibrary:
    """What a `ctypes.CDLL` is to those who use it."""

    def __init__(self, process: guest.Guest) -> None:
        self._process = process

    def __getattr__(self, name: str) -> Callable[..., int]:
        function = self._function(name)
        address = ctypes.cast(function, ctypes.c_void_p).value
        assert address is not None
        _names[address] = name
        setattr(self, name, function)
        return function

    def _function(self, name: str) -> Any:
        if name == "program_run":
            return _Function(self._run_program)
        if name.endswith("_serves"):
            return _Query(lambda: self._process.call(name, None, 0))

        def call(address: int, number: int, *_: object) -> int:
            return self._process.call(name, address, number)

        return _Function(call)

    def _run_program(
        self, calls: int, count: int, num_threads: int, overlap: int | None, team: int
    ) -> int:
        if overlap:
            ctypes.CFUNCTYPE(None)(overlap)()
        triples = (ctypes.c_void_p * (3 * count)).from_address(calls) if count else ()
        kernels = [_names[run].removesuffix("_run") for run in triples[1::3]]
        self._process.run(list(zip(kernels, triples[2::3], strict=True)), num_threads)
        return 0
