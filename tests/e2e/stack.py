"""A whole stack started by `infermesh up` in a folder of its own, as a person would start it."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from cli import servers

ROOT = Path(__file__).parents[2]
BUNDLED = ROOT / "models" / "infermesh-tiny"
READY_LIMIT_S = 90.0
STOP_LIMIT_S = 40.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where a stack answers and the key that it accepts."""

    url: str
    key: str

    def status(self, path: str) -> int:
        """The status of a GET without a key; 0 when nobody answers."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=5) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def text(self, path: str) -> str:
        """The body of a GET without a key."""
        with urllib.request.urlopen(self.url + path, timeout=5) as response:
            return str(response.read().decode())


class Stack:
    """One `infermesh up` and its processes."""

    def __init__(self, folder: Path, *arguments: str, **environ: str) -> None:
        self.folder = folder
        self.port = servers.free_port()
        clean = {k: v for k, v in os.environ.items() if not k.startswith("INFERMESH_")}
        self._log = (folder / "up.log").open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "up", "--port", str(self.port), *arguments],
            cwd=folder,
            env={**clean, "PYTHONPATH": str(ROOT), "INFERMESH_MODEL": str(BUNDLED), **environ},
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    @property
    def address(self) -> Address:
        """For clients, once the stack is ready."""
        key = (self.folder / ".infermesh" / "dev-key").read_text().strip()
        return Address(f"http://127.0.0.1:{self.port}", key)

    def output(self) -> str:
        """What `infermesh up` has printed."""
        return (self.folder / "up.log").read_text()

    def wait_ready(self) -> None:
        """Returns when /readyz is 200; fails with the stack's own words."""
        wait(lambda: self._answers_ready(), READY_LIMIT_S, self.output)

    def pids(self, name: str) -> list[int]:
        """Processes of a service (`gateway`) or a stock server (`nats-server`)."""
        wanted = f"services.{name}" if "server" not in name else name
        return [
            child.pid
            for child in psutil.Process(self.process.pid).children(recursive=True)
            if wanted in _command(child)
        ]

    def kill(self, name: str) -> int:
        """kill -9 of one process of a service; returns its pid."""
        pid = self.pids(name)[0]
        os.kill(pid, signal.SIGKILL)
        return pid

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Asks the stack to end; returns the exit code of `infermesh up`."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(STOP_LIMIT_S)
        finally:
            self.process.kill()
            self._log.close()

    def _answers_ready(self) -> bool:
        assert self.process.poll() is None, self.output()
        return self.address_known() and self.address.status("/readyz") == 200

    def address_known(self) -> bool:
        """Whether the key is written."""
        return (self.folder / ".infermesh" / "dev-key").exists()


def wait(
    condition: Callable[[], bool], limit_s: float, explain: Callable[[], str] = lambda: ""
) -> float:
    """Polls until `condition` holds; returns the seconds that took, fails after `limit_s`."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < limit_s, f"not within {limit_s} s\n{explain()}"
        time.sleep(0.05)
    return time.monotonic() - started


def _command(process: psutil.Process) -> str:
    """The command line, or nothing where the process ended meanwhile."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""
