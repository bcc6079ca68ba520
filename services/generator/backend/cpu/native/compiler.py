"""Compiler of this folder's C++ sources for a CPU level; keeps the results.

`make setup` and the images compile ahead, into this folder; what is not there is compiled at first
use. A plain C interface through ctypes needs none of torch's headers and compiles in seconds.
"""

import argparse
import ctypes
import functools
import hashlib
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from services.generator.backend.cpu.native import levels
from services.generator.backend.cpu.native.levels import Level

logger = logging.getLogger(__name__)

_HERE = Path(__file__).parent
_AHEAD = _HERE / "compiled"
SOURCES = tuple(sorted(path.stem for path in _HERE.glob("*.cpp")))

# Floats are summed in the order that is written, so that a result depends on nothing else.
_FLAGS = (
    *("-O3", "-std=c++17", "-fPIC", "-shared"),
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-ffp-contract=off"),
)
_COMPILE_LIMIT_S = 300


def library(name: str) -> ctypes.CDLL | None:
    """Return `<name>.cpp` compiled for the level that serves, or None where nothing can.

    Whoever uses it declares the types of its functions.
    """
    level = levels.current()
    return None if level is None else _library(name, level)


def serving_level() -> str:
    """Return the level whose kernels serve, torch where none can be had."""
    level = levels.current()
    return levels.TORCH if level is None or library("program") is None else level.name


@functools.cache
def parallel() -> int | None:
    """Return the address of GOMP_parallel in torch's own OpenMP, whose threads the kernels share.

    So no compiler has to bring one, and no second team of threads spins beside torch's.
    """
    import torch

    bundled = sorted(str(path) for path in Path(torch.__file__).parent.glob("lib/lib*omp*.so*"))
    for name in (*bundled, "libgomp.so.1"):
        try:
            function = ctypes.CDLL(name).GOMP_parallel
        except (OSError, AttributeError):
            continue
        return ctypes.cast(function, ctypes.c_void_p).value
    logger.warning("torch alone serves: its OpenMP has no GOMP_parallel")
    return None


@functools.cache
def _library(name: str, level: Level) -> ctypes.CDLL | None:
    if parallel() is None:
        return None
    try:
        path = _compiled(name, level)
        return None if path is None else ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("torch alone serves for %s: %s", name, error)
        return None


def _compiled(name: str, level: Level) -> Path | None:
    """Return the library, compiled unless it was for these sources; None without a compiler."""
    file = _file_name(name, level)
    ahead = _AHEAD / file
    if ahead.exists():
        return ahead
    compiler = _compiler()
    if compiler is None:
        _say_what_it_costs()
        return None
    target = _cache_folder() / file
    if not target.exists():
        _compile(compiler, name, level, target)
    return target


def _file_name(name: str, level: Level) -> str:
    """Return a name that changes with whatever the library is made of."""
    texts = [path.read_text() for path in (_HERE / f"{name}.cpp", *sorted(_HERE.glob("*.h")))]
    digest = hashlib.sha256("\0".join((*texts, *_FLAGS, *level.flags)).encode()).hexdigest()[:16]
    return f"{name}-{level.name}-{digest}.so"


class _Compiler(NamedTuple):
    command: tuple[str, ...]
    is_zig: bool = False

    def flags(self, level: Level) -> tuple[str, ...]:
        return (f"-mcpu={level.zig_cpu}",) if self.is_zig else level.flags


@functools.cache
def _compiler() -> _Compiler | None:
    """Return a C++ compiler: CXX, g++, clang++ or that of the ziglang wheel."""
    for command in (os.environ.get("CXX", "g++"), "clang++"):
        if (found := shutil.which(command)) is not None:
            return _Compiler((found,))
    if importlib.util.find_spec("ziglang") is not None:
        return _Compiler((sys.executable, "-m", "ziglang", "c++"), is_zig=True)
    return None


@functools.cache
def _say_what_it_costs() -> None:
    logger.warning(
        "no C++ compiler: torch alone serves, which is several times slower; "
        "`pip install ziglang` brings one"
    )


def _compile(compiler: _Compiler, name: str, level: Level, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        built = Path(scratch) / target.name
        command = [*compiler.command, *_FLAGS, *compiler.flags(level)]
        command += ["-o", str(built), str(_HERE / f"{name}.cpp")]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=_COMPILE_LIMIT_S)
        except subprocess.CalledProcessError as error:
            logger.warning("%s", error.stderr.decode(errors="replace").strip()[-2000:])
            raise
        built.replace(target)


def _cache_folder() -> Path:
    """Return the user's cache folder, or one of this process where that cannot be written."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "infermesh"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):
        pass
    return _own_folder()


@functools.cache
def _own_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="infermesh-"))


def compile_ahead(names: Sequence[Level]) -> int:
    """Compile all sources for these levels into this folder; return how many libraries are new."""
    compiler = _compiler()
    if compiler is None:
        _say_what_it_costs()
        return 0
    _AHEAD.mkdir(exist_ok=True)
    wanted = {
        (_AHEAD / _file_name(name, level)): (name, level) for level in names for name in SOURCES
    }
    for path in _AHEAD.glob("*.so"):  # of sources that have changed since
        if path not in wanted and any(f"-{level.name}-" in path.name for level in names):
            path.unlink()
    missing = [path for path in wanted if not path.exists()]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda path: _compile(compiler, *wanted[path], path), missing))
    return len(missing)


def main() -> None:
    """Compile ahead, as the command line says."""
    parser = argparse.ArgumentParser(description="compile the kernels of a CPU ahead of their use")
    parser.add_argument(
        "--all",
        action="store_true",
        help="for every level of this architecture, not this processor's",
    )
    arguments = parser.parse_args()
    chosen = levels.of_this_machine() if arguments.all else levels.available()[-1:]
    count = compile_ahead(chosen)
    print(f"kernels for {', '.join(each.name for each in chosen)}: {count} compiled")


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    main()
