"""One process of the stack: started, watched, restarted with back-off, stopped.

Knows nothing of the other processes; `supervisor` orders them.
"""

import asyncio
import contextlib
import enum
import os
import signal
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field

from cli import launcher
from cli.log import Log

PROBE_STARTING_S = 0.2
PROBE_READY_S = 2.0


class State(enum.StrEnum):
    """What a person reads in the table."""

    STARTING = "starting"
    READY = "ready"
    UNREADY = "not ready"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Service:
    """What one replica runs. `environ` is all of its environment; `ready` may block a thread."""

    name: str
    index: int
    command: tuple[str, ...]
    environ: Mapping[str, str] = field(repr=False)
    port: int
    ready: Callable[[], bool]

    @property
    def label(self) -> str:
        """The replica's name in the table and of its log file."""
        return f"{self.name}-{self.index}"


@dataclass(slots=True)
class Backoff:
    """Waits that double from `first_s` to `longest_s`; `healthy_s` of good life start afresh."""

    first_s: float = 0.2
    longest_s: float = 10.0
    healthy_s: float = 60.0
    _next_s: float = 0.0

    def after(self, ready_s: float) -> float:
        """Return the seconds to wait after a life that was ready for `ready_s`."""
        wait_s = self.first_s if ready_s >= self.healthy_s or not self._next_s else self._next_s
        self._next_s = min(2 * wait_s, self.longest_s)
        return wait_s


class Replica:
    """Keeps one process running until it is told to stop.

    `report(replica, detail)` is called on every change of state; `detail` says more, or is "".
    """

    def __init__(
        self,
        service: Service,
        log: Log,
        report: Callable[["Replica", str], None],
        probes: Executor,
        backoff: Backoff | None = None,
    ) -> None:
        self.service = service
        self.state = State.STARTING
        self.pid: int | None = None
        self.restarts = 0
        self._log = log
        self._report = report
        self._probes = probes
        self._backoff = backoff or Backoff()
        self._ready_since: float | None = None
        self._grace_s = 0.0
        self._stop = asyncio.Event()
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Run process after process; return once stopped."""
        try:
            while not self._stop.is_set():
                code = await self._live()
                if not self._stop.is_set():
                    await self._pause(code)
        finally:
            self._enter(State.STOPPED)
            self._stopped.set()

    async def stop(self, grace_s: float) -> None:
        """Send SIGTERM, after `grace_s` SIGKILL; return when the process is gone. Idempotent."""
        self._grace_s = grace_s
        self._stop.set()
        await self._stopped.wait()

    def kill(self) -> None:
        """SIGKILL now, and no restart."""
        self._grace_s = 0.0
        self._stop.set()
        if self.pid is not None:
            _kill_group(self.pid)

    async def _live(self) -> int:
        """Run one process from start to end; return its exit code, negative for a signal."""
        process = await self._spawn()
        self.pid, self._ready_since = process.pid, None
        self._enter(State.STARTING)
        watching = asyncio.create_task(self._watch())
        stopping = asyncio.create_task(self._stop.wait())
        ending = asyncio.create_task(process.wait())
        try:
            await asyncio.wait({stopping, ending}, return_when=asyncio.FIRST_COMPLETED)
            watching.cancel()
            if not ending.done():
                await self._end(process, ending)
            return await ending
        finally:
            for task in (watching, stopping, ending):
                task.cancel()
            # the leader, where this is cancelled, and children that it left behind
            _kill_group(process.pid)
            self.pid = None

    async def _spawn(self) -> asyncio.subprocess.Process:
        with self._log.open() as log:
            return await asyncio.create_subprocess_exec(
                *launcher.bound_to_this(self.service.command),
                env=self.service.environ,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # the terminal's Ctrl-C is for the supervisor alone
                start_new_session=True,
            )

    async def _end(self, process: asyncio.subprocess.Process, ending: asyncio.Task[int]) -> None:
        self._enter(State.STOPPING)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        done, _ = await asyncio.wait({ending}, timeout=self._grace_s)
        if not done:
            self._report(self, f"did not stop within {self._grace_s:g} s: killed")
            _kill_group(process.pid)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            ready = await loop.run_in_executor(self._probes, self.service.ready)
            if ready and self.state is not State.READY:
                self._ready_since = self._ready_since or time.monotonic()
                self._enter(State.READY)
            elif not ready and self.state is State.READY:
                self._enter(State.UNREADY)
            await asyncio.sleep(PROBE_READY_S if ready else PROBE_STARTING_S)

    async def _pause(self, code: int) -> None:
        ready_s = time.monotonic() - self._ready_since if self._ready_since else 0.0
        wait_s = self._backoff.after(ready_s)
        self.restarts += 1
        text = f"{_ending(code)}; starts again in {wait_s:g} s. Last lines of {self._log.path}:"
        self._enter(State.RESTARTING, "\n    ".join([text, *self._log.tail()]))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._stop.wait()

    def _enter(self, state: State, detail: str = "") -> None:
        self.state = state
        self._report(self, detail)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    names = {number.value: number.name for number in signal.Signals}
    return f"ended by {names.get(-code, f'signal {-code}')}"
