"""What the device does in a step, as CUPTI tells: time by kernel, and how long it is idle."""

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from bench.gpu.timing import synchronize

MOST_KERNELS = 12
NAME_LENGTH = 80


def device_profile(
    step: Callable[[], object], num_steps: int, step_s: float
) -> dict[str, Any] | None:
    """Return milliseconds per step of all kernels and of the longest; None without a GPU.

    `step_s` is a step's time without the profiler, of which the rest is the device waiting for the
    host. Says `failed` where there is no profiler.
    """
    if not torch.cuda.is_available() or num_steps == 0:
        return None
    try:
        with profile(activities=[ProfilerActivity.CUDA]) as session:
            for _ in range(num_steps):
                step()
            synchronize()
        events = [e for e in session.key_averages() if e.device_type.name == "CUDA"]
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"}
    times = sorted(
        ((event.self_device_time_total / 1e3 / num_steps, event) for event in events),
        key=lambda pair: -pair[0],
    )
    busy_ms = sum(each for each, _ in times)
    if busy_ms == 0.0:
        return {"failed": "the profiler saw no kernel"}
    return {
        "busy_ms": busy_ms,
        "idle_ms": step_s * 1e3 - busy_ms,
        "kernels": [
            {"name": event.key[:NAME_LENGTH], "ms": each, "calls": event.count / num_steps}
            for each, event in times[:MOST_KERNELS]
        ],
    }
