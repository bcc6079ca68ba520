"""Sees a step of the engine that does not end, and says where every thread stands."""

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable

logger = logging.getLogger(__name__)

CHECK_INTERVAL_S = 0.5


class Watchdog:
    """Times steps: `begin` and `end` come from the engine's thread, the rest from the event loop.

    Only steps count. Idle time, commands and the loading of a model are no work that is late.
    """

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_s = limit_s
        self._clock = clock
        self._since_s: float | None = None
        self._reported_s: float | None = None

    def begin(self) -> None:
        """Note that a step begins."""
        self._since_s = self._clock()

    def end(self) -> None:
        """Note that the step is over, or that none was under way."""
        self._since_s = None

    @property
    def is_wedged(self) -> bool:
        """Whether a step has been under way for longer than the limit."""
        since_s = self._since_s
        return since_s is not None and self._clock() - since_s > self._limit_s

    def check(self) -> None:
        """Log the stacks of all threads once per wedged step, and that the engine goes on."""
        since_s = self._since_s
        if self._reported_s is not None and since_s != self._reported_s:
            logger.warning("the engine goes on after a step that took too long")
            self._reported_s = None
        if since_s is not None and since_s != self._reported_s and self.is_wedged:
            self._reported_s = since_s
            seconds = self._clock() - since_s
            logger.error("a step of the engine has not ended for %.1f s\n%s", seconds, _stacks())

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            self.check()
            await asyncio.sleep(CHECK_INTERVAL_S)


def _stacks() -> str:
    """Return where each thread is, innermost call last."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"Thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
    )
