"""How many KV blocks to allocate: from the model's shape, the options and the free memory."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import torch

from services.generator.engine.engine_config import EngineConfig
from services.generator.engine.errors import EngineConfigError

_FREE_SHARE = 0.4
_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")
_MIB = 2**20

logger = logging.getLogger(__name__)


def plan_num_blocks(
    config: EngineConfig, context_length: int, block_bytes: int, weight_bytes: int = 0
) -> int:
    """Return the number of KV blocks beside weights that are not loaded yet; log the arithmetic.

    Raises EngineConfigError if the weights or the chosen cache do not fit into the free memory,
    or not even one block does.
    """
    wanted = config.max_num_seqs * -(-context_length // config.block_size)
    free_bytes = available_memory_bytes() - weight_bytes
    if free_bytes < 0:
        raise EngineConfigError(
            "model",
            f"its weights take {_mib(weight_bytes)}, {_mib(free_bytes + weight_bytes)} are free",
        )
    limit = config.kv_cache_bytes
    if limit is not None and limit > free_bytes:
        raise EngineConfigError(
            "kv_cache_bytes",
            f"{_mib(limit)} do not fit: {_mib(free_bytes)} are free beside the weights "
            f"({_mib(weight_bytes)})",
        )
    budget_bytes = int(free_bytes * _FREE_SHARE) if limit is None else limit
    affordable = budget_bytes // block_bytes
    num_blocks = min(wanted, affordable) if limit is None else affordable
    if num_blocks < 1:
        raise EngineConfigError("kv_cache_bytes", f"one block alone takes {block_bytes} bytes")
    logger.info(
        "KV cache: %d blocks x %d tokens x %d bytes = %s (wanted %d for %d sequences of %d tokens; "
        "budget %s of %s free beside weights of %s)",
        num_blocks,
        config.block_size,
        block_bytes // config.block_size,
        _mib(num_blocks * block_bytes),
        wanted,
        config.max_num_seqs,
        context_length,
        _mib(budget_bytes),
        _mib(free_bytes),
        _mib(weight_bytes),
    )
    return num_blocks


def available_memory_bytes() -> int:
    """Return the memory that the machine or this container can give, whichever is less.

    What only caches files counts as free.
    """
    free_bytes = _machine_bytes()
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        files = _field((_CGROUP / "memory.stat").read_text(), "inactive_file")
    except (OSError, ValueError):
        return free_bytes
    return max(0, min(free_bytes, limit - used + files))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed; on a CPU torch says so in a RuntimeError's text alone."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _machine_bytes() -> int:
    try:
        return _field(_MEMINFO.read_text(), "MemAvailable:") * 1024
    except (OSError, ValueError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _field(text: str, name: str) -> int:
    """Return the number that follows a name at the start of a line; ValueError if none does."""
    found = re.search(rf"^{name}\s+(\d+)", text, re.MULTILINE)
    if found is None:
        raise ValueError(name)
    return int(found[1])


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / _MIB:.1f} MiB"
