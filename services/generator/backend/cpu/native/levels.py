"""CPU levels: the sets of instructions that kernels are compiled for.

One serves in a process: the highest that the processor has, unless a lower one is asked for. A
level holds those below it on its architecture, so each can be tried where a higher one is.
"""

import functools
import logging
import platform
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

TORCH = "torch"


@dataclass(frozen=True, slots=True)
class Level:
    """Instructions by the kernel's names for them, and what compilers call them.

    `flags` are those of GCC and Clang, `zig_cpu` is Zig's name for the processor.
    """

    name: str
    machine: str  # of the platform
    features: frozenset[str]
    flags: tuple[str, ...]
    zig_cpu: str
    multiplies_bf16: bool = False


_AVX2 = frozenset({"avx2", "fma", "f16c", "bmi2"})
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_VNNI = _AVX512 | {"avx512_vnni"}
_BF16 = _VNNI | {"avx512_bf16"}

_BF16_FLAGS = ("-march=x86-64-v4", "-mavx512vnni", "-mavx512bf16")
_BF16_ZIG = "x86_64_v4+avx512vnni+avx512bf16"

# from the lowest up
LEVELS = (
    Level("avx2", "x86_64", _AVX2, ("-march=x86-64-v3",), "x86_64_v3"),
    Level("avx512", "x86_64", _AVX512, ("-march=x86-64-v4",), "x86_64_v4"),
    Level(
        *("avx512_vnni", "x86_64", _VNNI),
        ("-march=x86-64-v4", "-mavx512vnni"),
        "x86_64_v4+avx512vnni",
    ),
    Level("avx512_bf16", "x86_64", _BF16, _BF16_FLAGS, _BF16_ZIG, multiplies_bf16=True),
    Level(
        *("amx", "x86_64", _BF16 | {"amx_tile", "amx_bf16", "amx_int8"}),
        *(_BF16_FLAGS, _BF16_ZIG),
        multiplies_bf16=True,
    ),
    Level("neon", "aarch64", frozenset({"asimd"}), ("-march=armv8-a",), "generic"),
    Level(
        *("neon_dotprod", "aarch64", frozenset({"asimd", "asimddp"})),
        *(("-march=armv8.2-a+dotprod",), "generic+v8_2a+dotprod"),
    ),
)
NAMES = (TORCH, *(level.name for level in LEVELS))
_MACHINES = {"AMD64": "x86_64", "arm64": "aarch64"}

_chosen: Level | None = None
_is_chosen = False


class LevelError(ValueError):
    """A level that this processor has not."""


@functools.cache
def available() -> tuple[Level, ...]:
    """Return the levels of this processor, from the lowest up; none where they are not known."""
    features = _features()
    return tuple(level for level in of_this_machine() if level.features <= features)


def of_this_machine() -> tuple[Level, ...]:
    """Return all levels of processors of this kind, from the lowest up."""
    machine = _MACHINES.get(platform.machine(), platform.machine())
    return tuple(level for level in LEVELS if level.machine == machine)


def current() -> Level | None:
    """Return the level that serves in this process; None is torch's operations alone."""
    if _is_chosen:
        return _chosen
    return available()[-1] if available() else None


def multiplies_bf16() -> bool:
    """Return whether products of bfloat16 are instructions, by our kernels or by oneDNN's."""
    level = current() or (available()[-1] if available() else None)
    return level is not None and level.multiplies_bf16


def use(name: str | None) -> None:
    """Have a level serve from now on, the highest for None; raises LevelError if it is not here."""
    global _chosen, _is_chosen
    by_name = {level.name: level for level in available()}
    if name not in (None, TORCH, *by_name):
        here = ", ".join((TORCH, *by_name))
        raise LevelError(f"{name} is not a level of this processor, which has: {here}")
    _chosen = by_name.get(name or "")
    _is_chosen = name is not None


def _features() -> frozenset[str]:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return frozenset()
    lines = info.read_text().splitlines()
    line = next((each for each in lines if each.startswith(("flags", "Features"))), "")
    return frozenset(line.partition(":")[2].split())
