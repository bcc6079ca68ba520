"""One supervised process, with real children."""

import asyncio
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from cli.log import Log
from cli.replica import Backoff, Replica, Service, State

Child = Callable[..., Service]
SERVE = "up.touch(); time.sleep(60)"
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN); up.touch(); time.sleep(60)"
PARENT = "os.fork() or time.sleep(60) or sys.exit()\n" + SERVE


class Running:
    """A replica whose task belongs to the test."""

    def __init__(self, service: Service, reports, tmp_path: Path) -> None:
        self.reports = reports
        self.pool = ThreadPoolExecutor(1)
        log = Log(tmp_path / f"{service.label}.log")
        self.replica = Replica(service, log, reports, self.pool, Backoff(first_s=0.01))

    async def __aenter__(self) -> Replica:
        self.task = asyncio.create_task(self.replica.run())
        return self.replica

    async def __aexit__(self, *_: object) -> None:
        self.replica.kill()
        await self.task
        self.pool.shutdown()


def test_backoff_doubles_to_a_limit_and_starts_afresh_after_good_health() -> None:
    """0.2 s to 10 s; a healthy minute forgives."""
    backoff = Backoff()
    waits = [backoff.after(0.0) for _ in range(8)]
    assert waits == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    assert backoff.after(59.9) == 10.0
    assert backoff.after(60.0) == 0.2
    assert backoff.after(0.0) == 0.4


async def test_a_process_becomes_ready_and_stops(reports, child: Child, tmp_path: Path) -> None:
    """Every state is told in order, and the pid is the process's own."""
    async with Running(child(SERVE), reports, tmp_path) as replica:
        await reports.until(lambda: replica.state is State.READY)
        assert replica.pid is not None
        process = psutil.Process(replica.pid)
        await replica.stop(grace_s=5)
        assert not process.is_running()
    assert reports.of("child-0") == ["starting", "ready", "stopping", "stopped"]
    assert replica.restarts == 0


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("print('goodbye', flush=True); sys.exit(3)", "ended with exit code 3"),
        ("print('goodbye', flush=True); sys.exit(0)", "ended with exit code 0"),
        ("print('goodbye', flush=True); os.kill(os.getpid(), 9)", "ended by SIGKILL"),
    ],
)
async def test_whatever_ends_a_process_it_is_restarted(
    reports, child: Child, tmp_path: Path, code: str, words: str
) -> None:
    """How it ended, when it starts again and its last words are told."""
    async with Running(child(code), reports, tmp_path) as replica:
        await reports.until(lambda: replica.restarts >= 2)
    details = [detail for _, state, detail in reports.entries if state == "restarting"]
    assert details[0].startswith(f"{words}; starts again in 0.01 s.")
    assert details[1].startswith(f"{words}; starts again in 0.02 s.")
    assert details[0].endswith("child-0.log:\n    goodbye")


async def test_a_killed_process_comes_back_ready(reports, child: Child, tmp_path: Path) -> None:
    """With another pid."""
    async with Running(child(SERVE), reports, tmp_path) as replica:
        await reports.until(lambda: replica.state is State.READY)
        first = replica.pid
        os.kill(first, signal.SIGKILL)
        await reports.until(lambda: replica.restarts == 1 and replica.state is State.READY)
        assert replica.pid != first


async def test_a_deaf_process_is_killed_after_its_grace(
    reports, child: Child, tmp_path: Path
) -> None:
    """And that is told."""
    async with Running(child(DEAF), reports, tmp_path) as replica:
        await reports.until(lambda: replica.state is State.READY)
        await replica.stop(grace_s=0.1)
    assert ("child-0", "stopping", "did not stop within 0.1 s: killed") in reports.entries


async def test_kill_does_not_wait(reports, child: Child, tmp_path: Path) -> None:
    """It overtakes a stop that still waits for a deaf process."""
    async with Running(child(DEAF), reports, tmp_path) as replica:
        await reports.until(lambda: replica.state is State.READY)
        stopping = asyncio.create_task(replica.stop(grace_s=60))
        await reports.until(lambda: replica.state is State.STOPPING)
        replica.kill()
        async with asyncio.timeout(5):
            await stopping


async def test_stop_ends_the_wait_for_a_restart(reports, child: Child, tmp_path: Path) -> None:
    """Nobody waits ten seconds for a process that shall not start."""
    running = Running(child("sys.exit(1)"), reports, tmp_path)
    running.replica._backoff = Backoff(first_s=60)
    async with running as replica:
        await reports.until(lambda: replica.state is State.RESTARTING)
        async with asyncio.timeout(5):
            await replica.stop(grace_s=60)


async def test_children_of_a_process_go_with_it(reports, child: Child, tmp_path: Path) -> None:
    """Also those that its own death would leave behind."""
    async with Running(child(PARENT), reports, tmp_path) as replica:
        await reports.until(lambda: replica.state is State.READY)
        left_behind = psutil.Process(replica.pid).children()
        assert len(left_behind) == 1
        await replica.stop(grace_s=5)
    _, alive = psutil.wait_procs(left_behind, timeout=5)
    assert not alive


async def test_a_process_that_stops_answering_is_shown(
    reports, child: Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not restarted for that: it may recover, and here it does."""
    monkeypatch.setattr("cli.replica.PROBE_READY_S", 0.02)
    async with Running(child(SERVE), reports, tmp_path) as replica:
        up = tmp_path / "child-0.up"
        await reports.until(lambda: replica.state is State.READY)
        up.unlink()
        await reports.until(lambda: replica.state is State.UNREADY)
        up.touch()
        await reports.until(lambda: replica.state is State.READY)
        assert replica.restarts == 0


async def test_a_child_leads_its_own_session(reports, child: Child, tmp_path: Path) -> None:
    """A terminal's Ctrl-C reaches the supervisor alone."""
    async with Running(child(SERVE), reports, tmp_path) as replica:
        await reports.until(lambda: replica.state is State.READY)
        assert os.getsid(replica.pid) == replica.pid != os.getsid(0)
