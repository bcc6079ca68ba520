"""A stack of `infermesh up` in a folder of its own."""

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from cli import servers

ROOT = Path(__file__).parents[2]
READY_LIMIT_S = 60.0
STOP_LIMIT_S = 60.0


class RunningStack(NamedTuple):
    """Where a stack answers, the key that it accepts, and the process that started the others."""

    url: str
    key: str
    pid: int


@contextmanager
def running_stack(model: Path) -> Iterator[RunningStack]:
    """Start a stack and yield it when it is ready; raises SystemExit where it does not become."""
    with tempfile.TemporaryDirectory() as folder:
        port = servers.free_port()
        command = [sys.executable, "-m", "cli.main", "up", "--port", str(port)]
        process = subprocess.Popen(
            [*command, "--model", str(model)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_ready(url, process)
            key = (Path(folder) / ".infermesh" / "dev-key").read_text().strip()
            yield RunningStack(url, key, process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(STOP_LIMIT_S)


def _wait_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + READY_LIMIT_S
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5) as response:
                if response.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.2)
    raise SystemExit("the stack did not become ready")
