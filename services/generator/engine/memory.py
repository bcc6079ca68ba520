"""How many KV blocks to allocate: from the model's shape, the options and the free memory."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from services.generator.engine.engine_config import EngineConfig
from services.generator.engine.errors import EngineConfigError

_FREE_SHARE = 0.4
_CGROUP = Path("/sys/fs/cgroup")
_MIB = 2**20

logger = logging.getLogger(__name__)


def plan_num_blocks(config: EngineConfig, context_length: int, block_bytes: int) -> int:
    """Return the number of KV blocks and log the arithmetic in one line.

    Raises EngineConfigError if not even one block fits.
    """
    wanted = config.max_num_seqs * -(-context_length // config.block_size)
    free_bytes = available_memory_bytes()
    limit = config.kv_cache_bytes
    budget_bytes = int(free_bytes * _FREE_SHARE) if limit is None else limit
    affordable = budget_bytes // block_bytes
    num_blocks = min(wanted, affordable) if limit is None else affordable
    if num_blocks < 1:
        raise EngineConfigError("kv_cache_bytes", f"one block alone takes {block_bytes} bytes")
    logger.info(
        "KV cache: %d blocks x %d tokens x %d bytes = %.1f MiB (wanted %d for %d sequences "
        "of %d tokens; budget %.1f MiB of %.1f MiB free)",
        num_blocks,
        config.block_size,
        block_bytes // config.block_size,
        num_blocks * block_bytes / _MIB,
        wanted,
        config.max_num_seqs,
        context_length,
        budget_bytes / _MIB,
        free_bytes / _MIB,
    )
    return num_blocks


def available_memory_bytes() -> int:
    """Return the free memory of the machine or of this container, whichever is less."""
    free_bytes = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return free_bytes
    return max(0, min(free_bytes, limit - used))
