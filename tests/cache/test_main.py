"""The cache as a process."""

import os
import signal
import subprocess
import sys
import time

from cli import servers
from mesh.health import probe

LIMIT_S = 20.0


def test_the_process_serves_until_it_is_told_to_stop(redis_url: str) -> None:
    """It becomes healthy, and ends with 0."""
    port = servers.free_port()
    environ = {"INFERMESH_REDIS_URL": redis_url, "INFERMESH_CACHE_PORT": str(port)}
    with subprocess.Popen(
        [sys.executable, "-m", "services.cache"],
        env={**os.environ, **environ},
        stderr=subprocess.DEVNULL,
    ) as process:
        deadline = time.monotonic() + LIMIT_S
        while not probe(f"127.0.0.1:{port}", 1.0):
            assert process.poll() is None
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_S) == 0
