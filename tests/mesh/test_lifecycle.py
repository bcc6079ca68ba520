"""The life of a process: in this one for its parts, in a subprocess for signals and exit codes."""

import asyncio
import contextlib
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mesh import lifecycle as lifecycle_module
from mesh.lifecycle import Lifecycle, State
from tests.waiting import until

ROOT = Path(__file__).parents[2]
PROGRAM = """
import asyncio, sys
from typing import ClassVar
from mesh.config import Settings
from mesh.errors import CannotStartError
from mesh.lifecycle import Lifecycle, run

class Own(Settings):
    service: ClassVar[str] = "cache"

def say(word):
    print(word, flush=True)

async def start(settings, lifecycle):
    async def close():
        say("closed")
    lifecycle.stack.push_async_callback(close)
{body}

run(Own, start, ["own"])
"""


def program(body: str, **environ: str) -> "subprocess.Popen[str]":
    text = PROGRAM.format(body=textwrap.indent(textwrap.dedent(body), "    "))
    return subprocess.Popen(
        [sys.executable, "-c", text],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_with_0(number: signal.Signals) -> None:
    """On SIGTERM or Ctrl-C the drains run in order, then the resources close."""
    process = program(
        """
        async def first():
            await asyncio.sleep(0.05)
            say("first")
        async def second():
            say("second")
        lifecycle.on_drain(first)
        lifecycle.on_drain(second)
        say("started")
        """
    )
    assert line(process) == "started"
    process.send_signal(number)
    code, out, _ = ended(process)
    assert (code, out.split()) == (0, ["first", "second", "closed"])


def test_what_lives_at_readiness_is_not_looked_through_for_garbage() -> None:
    """A collection would stop the loop for it, and with it every stream."""
    body = """
        kept = [[] for _ in range(10_000)]
        async def tell():
            import gc
            while gc.get_freeze_count() <= 10_000:
                await asyncio.sleep(0.01)
            say(len(gc.get_objects()) < 10_000)
            lifecycle.stop()
        lifecycle.spawn(tell(), "tell")
        lifecycle.kept = kept
    """
    process = program(body)
    assert line(process) == "True"
    assert ended(process)[0] == 0


def test_a_drain_has_a_limit() -> None:
    """Work that does not end within the limit is ended, and the resources still close."""
    process = program(
        """
        async def forever():
            say("draining")
            await asyncio.Event().wait()
        lifecycle.on_drain(forever)
        say("started")
        """,
        INFERMESH_DRAIN_S="0.1",
    )
    assert line(process) == "started"
    process.send_signal(signal.SIGTERM)
    code, out, _ = ended(process)
    assert (code, out.split()) == (0, ["draining", "closed"])


def test_a_signal_during_the_start_ends_it() -> None:
    """A process that still starts is cancelled and closes what it has."""
    process = program(
        """
        say("starting")
        await asyncio.Event().wait()
        """
    )
    assert line(process) == "starting"
    process.send_signal(signal.SIGTERM)
    code, out, _ = ended(process)
    assert (code, out.split()) == (0, ["closed"])


def test_a_failing_task_ends_the_process_with_1() -> None:
    """A task that the process cannot live without takes it down, after a drain and a close."""
    process = program(
        """
        async def work():
            raise ValueError("broken inside")
        async def drain():
            say("drained")
        lifecycle.on_drain(drain)
        lifecycle.spawn(work(), "worker")
        """
    )
    code, out, err = ended(process)
    assert code == 1
    assert out.split()[-1] == "closed"
    assert "broken inside" in err


def test_a_failing_start_ends_the_process_with_1() -> None:
    """What was opened before the fault is closed."""
    code, out, err = ended(program('raise OSError("no port")'))
    assert (code, out.split()) == (1, ["closed"])
    assert "no port" in err


def test_a_refusal_to_start_is_one_line() -> None:
    """A process that cannot start says why, without a traceback, and ends with 1."""
    code, out, err = ended(program('raise CannotStartError("the folder is taken")'))
    assert (code, out.split()) == (1, ["closed"])
    assert "cannot start: the folder is taken" in err
    assert "Traceback" not in err


def test_bad_settings_end_the_process_with_2() -> None:
    """Every mistake stands on a line, before anything was started."""
    code, out, err = ended(program("", INFERMESH_DRAIN_S="long", INFERMESH_CACHE_SIZE="1"))
    assert (code, out) == (2, "")
    assert "INFERMESH_DRAIN_S" in err
    assert "INFERMESH_CACHE_SIZE: unknown variable" in err


async def test_ready_between_start_and_drain() -> None:
    """The check passes only while the process is ready."""
    life = Lifecycle()
    assert await life.checks.failing() == {"lifecycle": "NotReadyError"}
    release, draining = asyncio.Event(), asyncio.Event()

    async def drain() -> None:
        draining.set()
        await release.wait()

    life.on_drain(drain)
    running = asyncio.create_task(life.until_stopped(5))
    await until(lambda: life.state is State.READY)
    assert await life.checks.failing() == {}
    life.stop()
    life.stop()
    await asyncio.wait_for(draining.wait(), 5)
    assert "lifecycle" in await life.checks.failing()
    release.set()
    await running
    await life.close()


async def test_closing_twice() -> None:
    """Resources close once, in reverse order, and tasks are cancelled before them."""
    life, closed = Lifecycle(), []
    life.stack.callback(closed.append, "first")
    life.stack.callback(closed.append, "second")

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            closed.append("task")

    task = life.spawn(work(), "work")
    await asyncio.sleep(0)
    await life.close()
    await life.close()
    assert closed == ["task", "second", "first"]
    assert task.cancelled()


async def test_a_fault_is_raised_at_the_end() -> None:
    """A spawned task's fault asks the process to stop and comes out of `close`."""
    life = Lifecycle()

    async def work() -> None:
        raise KeyError("x")

    life.spawn(work(), "work")
    await asyncio.wait_for(life.until_stopped(1), 5)
    with pytest.raises(KeyError):
        await life.close()


def test_there_is_no_way_back() -> None:
    """A state that was left never comes again."""
    life = Lifecycle()
    life.advance(State.DRAINING)
    with pytest.raises(AssertionError, match="bug"):
        life.advance(State.READY)


async def test_a_task_that_swallowed_its_cancellation_ends_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one does whose library catches it; the process would never end."""
    monkeypatch.setattr(lifecycle_module, "CANCEL_AGAIN_S", 0.01)
    lifecycle = Lifecycle()

    async def stubborn() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    task = lifecycle.spawn(stubborn(), "stubborn")
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await lifecycle.close()
    assert task.cancelled()
