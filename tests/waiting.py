"""Waiting for a condition instead of sleeping."""

import asyncio
import time
from collections.abc import Callable

POLL_S = 0.005


async def until(condition: Callable[[], object], limit_s: float = 10.0) -> None:
    """Returns once `condition()` is true; fails after `limit_s`."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit_s} s: {condition}"
        await asyncio.sleep(POLL_S)
