"""All processes together: readiness, the order of stopping, the supervisor's own death."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil

from cli.plan import ROOT
from cli.replica import Service, State
from cli.supervisor import Supervisor

Child = Callable[..., Service]
# says when it stops
ORDERLY = """
def stop(*_):
    with open(os.environ['STOPPED'], 'a') as file: file.write(NAME + ' ')
    sys.exit(0)
signal.signal(signal.SIGTERM, stop); up.touch(); time.sleep(60)
"""
ALONE = """
import asyncio, sys, os
from pathlib import Path
from cli.replica import Service
from cli.supervisor import Supervisor
def report(replica, detail):
    if str(replica.state) == "starting": print(replica.pid, flush=True)
sleep = (sys.executable, "-S", "-c", "import time; time.sleep(60)")
services = [Service("a", n, sleep, dict(os.environ), 1, lambda: False) for n in range(3)]
asyncio.run(Supervisor([services], Path(sys.argv[1]), report, lambda: None).run(1))
"""


def orderly(child: Child, name: str, index: int = 0) -> Service:
    """A child that writes its name when it is told to stop."""
    return child(f"NAME = {name!r}" + ORDERLY, name, index)


async def test_stages_stop_one_after_the_other(reports, child: Child, tmp_path: Path) -> None:
    """A stage ends only when all of the one before it have ended; ready is told once."""
    stages = [
        [orderly(child, "front")],
        [orderly(child, "middle", 0), orderly(child, "middle", 1)],
        [orderly(child, "back")],
    ]
    ready: list[None] = []
    supervisor = Supervisor(stages, tmp_path, reports, lambda: ready.append(None))
    running = asyncio.create_task(supervisor.run(grace_s=5))
    await reports.until(lambda: bool(ready))
    assert all(replica.state is State.READY for replica in supervisor.replicas)
    assert supervisor.interrupt()
    async with asyncio.timeout(10):
        await running
    assert (tmp_path / "stopped").read_text().split() == ["front", "middle", "middle", "back"]
    assert len(ready) == 1
    assert all(replica.pid is None for replica in supervisor.replicas)


async def test_nothing_restarts_while_others_stop(reports, child: Child, tmp_path: Path) -> None:
    """A second interrupt kills, and is told apart from the first."""
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN); up.touch(); time.sleep(60)"
    stages = [[child(deaf, "deaf")], [orderly(child, "back")]]
    supervisor = Supervisor(stages, tmp_path, reports, lambda: None)
    running = asyncio.create_task(supervisor.run(grace_s=60))
    deaf_replica = supervisor.replicas[0]
    await reports.until(lambda: all(r.state is State.READY for r in supervisor.replicas))
    assert supervisor.interrupt()
    await reports.until(lambda: deaf_replica.state is State.STOPPING)
    assert not supervisor.interrupt()
    async with asyncio.timeout(10):
        await running
    assert reports.of("deaf-0")[-2:] == ["stopping", "stopped"]
    assert not (tmp_path / "stopped").exists()


def test_no_child_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    """`kill -9` leaves nobody who could stop them: the kernel does it."""
    with subprocess.Popen(
        [sys.executable, "-c", ALONE, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as alone:
        assert alone.stdout is not None
        children = [psutil.Process(int(alone.stdout.readline())) for _ in range(3)]
        alone.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
