"""Compiles paged_attention.cpp for this processor when it is first needed, and keeps it.

A plain C interface through ctypes needs none of torch's headers and compiles in two seconds.
"""

from __future__ import annotations

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

SOURCE = Path(__file__).with_name("paged_attention.cpp")
# Reductions may be reordered when compiled, and never after: no -ffast-math, which forgets NaN.
FLAGS = (
    *("-O3", "-march=native", "-std=c++17", "-fopenmp", "-fPIC", "-shared"),
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"),
)
_COMPILE_LIMIT_S = 120


class Arguments(ctypes.Structure):
    """Mirrors `struct Arguments` of the source."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("queries", "out", "cache")),
        *((name, ctypes.c_void_p) for name in ("block_table", "context")),
        *((name, ctypes.c_int64) for name in ("num_sequences", "query_stride", "table_width")),
        *((name, ctypes.c_int32) for name in ("heads", "kv_heads", "block_size", "window")),
        ("num_threads", ctypes.c_int32),
        *((name, ctypes.c_float) for name in ("scale", "soft_cap")),
    )


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the compiled library, or None where there is no compiler or it fails."""
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
    if compiler is None:
        logger.info("no C++ compiler: attention runs on torch alone, which is slower")
        return None
    try:
        loaded = ctypes.CDLL(str(_compiled(compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("attention runs on torch alone: %s", error)
        return None
    loaded.paged_attention.restype = ctypes.c_bool
    loaded.paged_attention.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_bool)
    return loaded


def _compiled(compiler: str) -> Path:
    """Compile unless it was done for this source, compiler and processor; return the file."""
    parts = (SOURCE.read_text(), compiler, " ".join(FLAGS), _processor())
    name = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    folder = _folder()
    target = folder / f"paged_attention-{name}.so"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch) / target.name
            command = [compiler, *FLAGS, "-o", str(made), str(SOURCE)]
            subprocess.run(command, check=True, capture_output=True, timeout=_COMPILE_LIMIT_S)
            made.replace(target)
    return target


def _folder() -> Path:
    """The user's cache folder, or one of this process where that cannot be written."""
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
