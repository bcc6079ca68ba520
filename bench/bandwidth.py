"""How fast this machine reads memory, as the floor under decoding one sequence."""

from __future__ import annotations

import os
import time

import torch

from services.generator.model.huge_pages import HugePages

BUFFER_BYTES = 2**29
"""Beyond any last-level cache, so that every pass comes from memory."""


def read_bytes_per_s(passes: int = 5) -> float:
    """Return the best rate at which all cores together sum a large buffer of float32.

    In cache the same sum runs several times faster, so memory is what it waits for. The buffer lies
    in huge pages: in others the translation of addresses may be what limits.
    """
    buffer = HugePages(0).zeros((BUFFER_BYTES // 4,), torch.float32).fill_(1.0)
    before = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    try:
        best_s = min(_timed_sum(buffer) for _ in range(passes))
    finally:
        torch.set_num_threads(before)
    return BUFFER_BYTES / best_s


def _timed_sum(buffer: torch.Tensor) -> float:
    started_s = time.perf_counter()
    buffer.sum()
    return time.perf_counter() - started_s
