"""The life of a service process: start, ready, drain on SIGTERM, stop; tasks with an owner."""

import asyncio
import contextlib
import enum
import gc
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Collection, Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from mesh.config import Settings, load_or_exit
from mesh.errors import CannotStartError
from mesh.health import Checks
from mesh.telemetry import Telemetry

logger = logging.getLogger(__name__)

S = TypeVar("S", bound=Settings)
Drain = Callable[[], Awaitable[None]]
# a task that goes on for so long was not reached
CANCEL_AGAIN_S = 1.0


class State(enum.Enum):
    """Where a process is; the order of the members is the only way through them."""

    STARTING = 0
    READY = 1
    DRAINING = 2
    STOPPED = 3


class NotReadyError(Exception):
    """The process starts or drains."""


class Lifecycle:
    """Owns a process's state, its tasks and what it must finish before it ends."""

    def __init__(self) -> None:
        self.state = State.STARTING
        self.checks = Checks()
        self.checks.add("lifecycle", self._ping)
        self.stack = AsyncExitStack()
        self._stop = asyncio.Event()
        self._drains: list[Drain] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._fault: BaseException | None = None

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run a task that this process cannot live without: its fault ends the process."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def on_drain(self, drain: Drain) -> None:
        """Have `drain` awaited on SIGTERM, within the drain limit, before anything closes."""
        self._drains.append(drain)

    def stop(self) -> None:
        """Ask the process to drain and end; idempotent."""
        self._stop.set()

    def advance(self, state: State) -> None:
        """Move forward in life; going back is a bug."""
        assert state.value >= self.state.value, f"{self.state} to {state}. This is a bug."
        self.state = state

    async def until_stopped(self, drain_s: float) -> None:
        """Ready until asked to stop, then unready while the drains run."""
        self.advance(State.READY)
        logger.info("ready")
        await self._stop.wait()
        self.advance(State.DRAINING)
        logger.info("draining for at most %.0f s", drain_s)
        try:
            async with asyncio.timeout(drain_s):
                await self.drain()
        except TimeoutError:
            logger.warning("drain limit reached; ending what is left")

    async def drain(self) -> None:
        """Finish what the process has taken in: run the drains, one after the other."""
        for drain in self._drains:
            await drain()

    async def close(self) -> None:
        """Cancel the tasks, close the resources in reverse order, re-raise a task's fault."""
        self.advance(State.STOPPED)
        await cancel_until_ended(self._tasks)
        await self.stack.aclose()
        if self._fault is not None:
            raise self._fault

    async def _ping(self) -> None:
        if self.state is not State.READY:
            raise NotReadyError

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or task.exception() is None:
            return
        logger.error("task %s failed", task.get_name(), exc_info=task.exception())
        self._fault = self._fault or task.exception()
        self._stop.set()


async def cancel_until_ended(tasks: Collection["asyncio.Task[Any]"]) -> None:
    """Cancel tasks, and again those that go on.

    `asyncio.wait_for` of Python 3.11 swallows a cancellation that comes together with its result.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)


def run(
    settings_type: type[S],
    start: Callable[[S, Lifecycle], Awaitable[None]],
    services: Collection[str],
) -> None:
    """Run a service from its first line to its last: the whole of its `__main__`.

    `start` enters its resources into `lifecycle.stack` and returns when the service can work.
    `services` are those that the environment may have variables for. Exits with 2 on bad settings,
    with 1 when it cannot start or a task failed.
    """
    settings = load_or_exit(settings_type, os.environ, services)
    telemetry = Telemetry(settings)
    try:
        asyncio.run(_main(settings, start))
    except KeyboardInterrupt:
        pass
    except CannotStartError as refusal:
        logger.error("cannot start: %s", refusal)
        raise SystemExit(1) from None
    except Exception:
        logger.exception("%s failed", settings.service)
        raise SystemExit(1) from None
    finally:
        telemetry.close()


async def _main(settings: S, start: Callable[[S, Lifecycle], Awaitable[None]]) -> None:
    lifecycle = Lifecycle()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lifecycle.stop)
    try:
        starting = asyncio.ensure_future(start(settings, lifecycle))
        stopping = asyncio.ensure_future(lifecycle._stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not starting.done():
            starting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await starting
            return
        starting.result()
        _freeze_gc()
        await lifecycle.until_stopped(settings.drain_s)
    finally:
        await lifecycle.close()


def _freeze_gc() -> None:
    """Exempt what a service holds when it can work from garbage collection.

    It lives until the end, and looking through it stops the loop: 30 ms in a gateway, 250 ms in a
    retriever with its encoder.
    """
    gc.collect()
    gc.freeze()
