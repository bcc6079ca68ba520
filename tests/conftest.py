"""Real servers for tests: nats-server with JetStream and Redis, each on a free port."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli import servers
from cli.plan import CHILD_DEFAULTS

pytest_plugins = ["tests.sharding", "tests.suite_table", "tests.figures"]

START_LIMIT_S = 15.0

# xdist's workers share the cores as the stack's services do: a thread that spins for long while
# another process has its core takes most of the time. Read when torch is loaded, so set here.
for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
    os.environ.setdefault(name, CHILD_DEFAULTS[name])


# what libraries and our own compiler take for the processor, where it is not asked
LEVELS = (
    *("OPENBLAS_CORETYPE", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA"),
    *("INFERMESH_GENERATOR_CPU_LEVEL", "CXX", "TEST_PROCESSOR"),
)


def pytest_report_header() -> str:
    """Name the processor's level that the environment asks for."""
    asked = [f"{name}={os.environ[name]}" for name in LEVELS if name in os.environ]
    return f"processor: {' '.join(asked) or 'as it is'}"


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    """Return once something accepts connections; fails where it ended or takes too long."""
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, f"server ended with {process.returncode}"
        with socket.socket() as probe:
            probe.settimeout(0.2)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError(f"nothing listens on {port}")


def running(command: list[str], port: int, environ: dict[str, str]) -> Iterator[int]:
    """Run a server for the length of a fixture."""
    process = subprocess.Popen(
        command,
        env={**os.environ, **environ},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_port(port, process)
        yield port
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="session")
def nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A nats-server with the configuration that the stack uses."""
    port = servers.free_port()
    store: Path = tmp_path_factory.mktemp("nats")
    command, environ = servers.nats_command(port, store)
    for used in running(command, port, environ):
        yield f"nats://127.0.0.1:{used}"


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis of its own."""
    port = servers.free_port()
    command = servers.redis_command(port, tmp_path_factory.mktemp("redis"))
    for used in running(command, port, {}):
        yield f"redis://127.0.0.1:{used}/0"
