"""How much memory this machine can give."""

import sys
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")


def available_bytes() -> int:
    """Return the free memory, or what no model is too large for where that is not known."""
    try:
        lines = _MEMINFO.read_text().splitlines()
        (line,) = (each for each in lines if each.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return sys.maxsize
