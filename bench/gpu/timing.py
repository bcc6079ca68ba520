"""The device's time of a call, without the host's, and the ceilings that the device has."""

import gc
import math
import statistics
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from bench.gpu.cases.case import BF16, Call

# launches between two events, so that their own time is nothing
MIN_LAUNCHES = 32
# with longer calls than that, fewer are enough
LONG_ROUND_S = 0.01
COPY_BYTES, PRODUCT_SIZE = 2**30, 8192


class Timing(NamedTuple):
    """Median seconds of a call; `is_recorded` where a CUDA graph launched it, not the host."""

    seconds: float
    is_recorded: bool


def timed(calls: Sequence[Call], repeats: int) -> Timing:
    """Time rounds in which each call has its turn, replayed from a CUDA graph where that works.

    Without a GPU, the host's clock.
    """
    for call in calls:
        call()
    plain_s = elapsed_s(partial(_run, calls))
    enough = math.ceil(MIN_LAUNCHES / len(calls))
    rounds = max(1, min(enough, int(LONG_ROUND_S / max(plain_s, 1e-9))))
    work: Call = partial(_run, list(calls) * rounds)
    replay = _recorded(work)
    work = replay or work
    work()
    taken_s = statistics.median(elapsed_s(work) for _ in range(repeats))
    return Timing(taken_s / (rounds * len(calls)), replay is not None)


def elapsed_s(work: Call) -> float:
    """Return the seconds from the start of what is launched to its end."""
    if not torch.cuda.is_available():
        started_s = time.perf_counter()
        work()
        return time.perf_counter() - started_s
    begin, end = _event(), _event()
    begin.record()
    work()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def synchronize() -> None:
    """Wait for all that was launched."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def copied_bytes_per_s(device: str, repeats: int, num_bytes: int = COPY_BYTES) -> float:
    """Return what a large copy reads and writes in a second."""
    source = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * num_bytes / timed([partial(target.copy_, source)], repeats).seconds


def multiplied_flops_per_s(device: str, repeats: int, size: int = PRODUCT_SIZE) -> float:
    """Return the operations of a large bfloat16 product in a second."""
    a, b = (torch.randn(size, size, dtype=BF16, device=device) for _ in range(2))
    return 2.0 * size**3 / timed([partial(torch.matmul, a, b)], repeats).seconds


def _event() -> Any:
    event: Any = torch.cuda.Event
    return event(enable_timing=True)


def _run(calls: Sequence[Call]) -> None:
    for call in calls:
        call()


def _recorded(work: Call) -> Call | None:
    """Return what launches `work` again by itself; None where it cannot be recorded."""
    if not torch.cuda.is_available():
        return None
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph):
            work()
    except Exception:
        # which a recording that breaks leaves the current one
        torch.cuda.set_stream(stream)
        # what an operation holds of the broken recording goes with it
        gc.collect()
        torch.cuda.synchronize()
        return None
    return graph.replay
