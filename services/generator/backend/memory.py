"""Size of the KV cache in blocks: from the model's shape, the options and the free memory."""

import logging
import os
import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from services.generator.engine.config import EngineConfig
from services.generator.engine.errors import EngineConfigError, OutOfMemoryError

_FREE_SHARE = 0.4
_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")
_MIB = 2**20
# of torch on a CPU, of CUDA, and of its products
_NO_MEMORY = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")

logger = logging.getLogger(__name__)


def plan_num_blocks(
    config: EngineConfig,
    context_length: int,
    block_bytes: int,
    weight_bytes: int = 0,
    smaller_formats: Mapping[str, int] | None = None,
) -> int:
    """Return the number of KV blocks in the machine's memory, weights not loaded yet; log why.

    Raises EngineConfigError if the weights or the chosen cache do not fit into the free memory,
    or not even one block does.
    """
    free_bytes = available_memory_bytes()
    check_weights(weight_bytes, free_bytes, smaller_formats or {})
    beside = f"beside weights of {mib(weight_bytes)}"
    budget = MemoryBudget(free_bytes - weight_bytes, _FREE_SHARE, beside)
    return num_blocks_within(config, context_length, block_bytes, budget)


class MemoryBudget(NamedTuple):
    """Memory for a KV cache: by default a `share` of the free bytes; `beside` says what else is."""

    free_bytes: int
    share: float
    beside: str


def check_weights(weight_bytes: int, free_bytes: int, smaller_formats: Mapping[str, int]) -> None:
    """Raise EngineConfigError if there is not so much memory for weights.

    Of `smaller_formats`, with what the weights take in each, it names the largest that fits, else
    the smallest.
    """
    if weight_bytes <= free_bytes:
        return
    problem = f"its weights take at least {mib(weight_bytes)}, {mib(free_bytes)} are free"
    if smaller_formats:
        fitting = {name: size for name, size in smaller_formats.items() if size <= free_bytes}
        name = max(fitting, key=fitting.__getitem__) if fitting else ""
        if not name:
            name = min(smaller_formats, key=smaller_formats.__getitem__)
        even = "" if fitting else "even "
        problem += f"; {even}with {name} they take {mib(smaller_formats[name])}"
    raise EngineConfigError("model", problem)


def num_blocks_within(
    config: EngineConfig, context_length: int, block_bytes: int, budget: MemoryBudget
) -> int:
    """Return the number of KV blocks, and log the arithmetic.

    Raises EngineConfigError if the chosen cache does not fit, or not even one block does.
    """
    wanted = config.max_num_seqs * -(-context_length // config.block_size)
    limit = config.kv_cache_bytes
    if limit is not None and limit > budget.free_bytes:
        raise EngineConfigError(
            "kv_cache_bytes",
            f"{mib(limit)} do not fit: {mib(budget.free_bytes)} are free {budget.beside}",
        )
    budget_bytes = int(budget.free_bytes * budget.share) if limit is None else limit
    affordable = budget_bytes // block_bytes
    num_blocks = min(wanted, affordable) if limit is None else affordable
    if num_blocks < 1:
        raise EngineConfigError(
            "kv_cache_bytes",
            f"one block alone takes {block_bytes} bytes of {mib(max(budget_bytes, 0))}: "
            f"{mib(budget.free_bytes)} are free {budget.beside}",
        )
    logger.info(
        "KV cache: %d blocks x %d tokens x %d bytes = %s (wanted %d for %d sequences of %d tokens; "
        "budget %s of %s free %s)",
        num_blocks,
        config.block_size,
        block_bytes // config.block_size,
        mib(num_blocks * block_bytes),
        wanted,
        config.max_num_seqs,
        context_length,
        mib(budget_bytes),
        mib(budget.free_bytes),
        budget.beside,
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
    """Whether an allocation failed; libraries say so in a RuntimeError's text alone."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY)


@contextmanager
def raising_out_of_memory() -> Iterator[None]:
    """Raise the engine's OutOfMemoryError where an allocation failed; also a decorator."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        # the frames that it passed hold the batch's tensors
        traceback.clear_frames(error.__traceback__)
        raise OutOfMemoryError(str(error)) from error


def _machine_bytes() -> int:
    try:
        return _field(_MEMINFO.read_text(), "MemAvailable:") * 1024
    except (OSError, ValueError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _field(text: str, name: str) -> int:
    """Return the number that follows a name at the start of a line; ValueError if none does."""
    match = re.search(rf"^{name}\s+(\d+)", text, re.MULTILINE)
    if match is None:
        raise ValueError(name)
    return int(match[1])


def mib(num_bytes: int) -> str:
    """Return a size for people."""
    return f"{num_bytes / _MIB:.1f} MiB"
