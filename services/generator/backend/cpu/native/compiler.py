"""Compiler of this folder's C++ sources for this processor, at first use; keeps the results.

A plain C interface through ctypes needs none of torch's headers and compiles in seconds.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch  # noqa: F401  its OpenMP has to be in the process before the library asks for one

logger = logging.getLogger(__name__)

# Floats are summed in the order that is written, so that a result depends on nothing else.
_FLAGS = (
    *("-O3", "-march=native", "-std=c++17", "-fopenmp", "-fPIC", "-shared"),
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-ffp-contract=off"),
)
_COMPILE_LIMIT_S = 120


@functools.cache
def library(name: str) -> ctypes.CDLL | None:
    """Return `<name>.cpp` compiled, or None where there is no compiler or it fails.

    Whoever uses it declares the types of its functions.
    """
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
    if compiler is None:
        logger.info("no C++ compiler: torch alone serves for %s, which is slower", name)
        return None
    try:
        return ctypes.CDLL(str(_compiled(name, compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("torch alone serves for %s: %s", name, error)
        return None


def _compiled(name: str, compiler: str) -> Path:
    """Compile unless it was done for these sources, compiler and processor; return the file."""
    here = Path(__file__).parent
    source = here / f"{name}.cpp"
    texts = [path.read_text() for path in (source, *sorted(here.glob("*.h")))]
    parts = (*texts, compiler, " ".join(_FLAGS), _processor())
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    folder = _folder()
    target = folder / f"{name}-{digest}.so"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            built = Path(scratch) / target.name
            command = [compiler, *_FLAGS, "-o", str(built), str(source)]
            subprocess.run(command, check=True, capture_output=True, timeout=_COMPILE_LIMIT_S)
            built.replace(target)
    return target


def _folder() -> Path:
    """Return the user's cache folder, or one of this process where that cannot be written."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "infermesh"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):
        pass
    return Path(tempfile.mkdtemp(prefix="infermesh-"))


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor()
    lines = info.read_text().splitlines()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
