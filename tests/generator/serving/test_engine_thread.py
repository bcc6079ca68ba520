"""The engine's thread: runs in order, and a process ends without it."""

import subprocess
import sys
import threading

import pytest

from services.generator.serving.engine_thread import EngineThread

STUCK = """
import threading
from services.generator.serving.engine_thread import EngineThread
entered = threading.Event()
EngineThread("engine").submit(lambda: entered.set() or threading.Event().wait())
entered.wait()
"""


def test_calls_run_in_order_in_one_thread() -> None:
    """Each gives its result; all of them run in the same thread, which has the name."""
    thread = EngineThread("engine")
    futures = [thread.submit(threading.current_thread) for _ in range(3)]
    workers = {future.result(10) for future in futures}
    assert [worker.name for worker in workers] == ["engine"]
    thread.shutdown()
    worker = workers.pop()
    worker.join(10)
    assert not worker.is_alive()


def test_a_fault_is_its_futures() -> None:
    """What a call raises comes from its future, and the thread goes on."""
    thread = EngineThread("engine")

    def burn() -> None:
        raise KeyError("lost")

    with pytest.raises(KeyError):
        thread.submit(burn).result(10)
    assert thread.submit(lambda: 7).result(10) == 7
    thread.shutdown()


def test_a_process_ends_though_its_engine_is_stuck() -> None:
    """The interpreter does not wait for a call that never returns."""
    assert subprocess.run([sys.executable, "-c", STUCK], timeout=30, check=False).returncode == 0
