"""The engine's thread: loads, steps, and a process ends without it."""

import queue
import subprocess
import sys
import threading

import pytest

from services.generator.engine import Engine, EngineStats, FinishReason, StepOutput
from services.generator.serving.engine_thread import EngineThread
from services.generator.serving.submission import abort
from tests.generator.backend.mock.engines import make_engine
from tests.generator.serving.tiny_bridge import submission

STUCK = """
import threading
from services.generator.serving.engine_thread import EngineThread
entered = threading.Event()
EngineThread(lambda: entered.set() or threading.Event().wait(), 1.0)
entered.wait()
"""


def test_commands_run_in_order_in_the_thread_that_loaded_the_engine() -> None:
    """Their outputs come with those of the step after them."""
    threads: list[threading.Thread] = []
    handed: queue.SimpleQueue[list[StepOutput]] = queue.SimpleQueue()

    def load() -> Engine:
        threads.append(threading.current_thread())
        return make_engine()

    def hand_off(outputs: list[StepOutput], stats: EngineStats, now_s: float) -> None:
        threads.append(threading.current_thread())
        handed.put(outputs)

    thread = EngineThread(load, 3.0)
    engine = thread.loaded.result(10)
    thread.start(hand_off)
    both = threading.Event()

    def add(engine: Engine) -> list[StepOutput]:
        # so that the abort waits as well when this command is done
        assert both.wait(10)
        return submission("a", max_tokens=100).add_to(engine)

    thread.put(add)
    thread.put(lambda engine: abort(engine, "a"))
    both.set()
    (output,) = handed.get(timeout=10)
    assert (output.request_id, output.finish_reason) == ("a", FinishReason.ABORT)
    assert not engine.has_work
    thread.stop()
    assert thread.ended.result(10) is None
    assert [each.name for each in set(threads)] == ["engine"]


def test_a_fault_at_load_is_what_loading_raises() -> None:
    """The thread has ended then."""

    def burn() -> Engine:
        raise KeyError("lost")

    thread = EngineThread(burn, 3.0)
    with pytest.raises(KeyError):
        thread.loaded.result(10)
    assert thread.ended.result(10) is None


def test_whatever_ends_the_thread_is_told() -> None:
    """Also what is no Exception: the process would wait for a thread that is gone."""

    def leave(engine: Engine) -> list[StepOutput]:
        raise SystemExit(3)

    thread = EngineThread(make_engine, 3.0)
    thread.put(leave)
    assert isinstance(thread.ended.result(10), SystemExit)


def test_a_process_ends_though_its_engine_is_stuck() -> None:
    """The interpreter does not wait for a thread that never returns."""
    assert subprocess.run([sys.executable, "-c", STUCK], timeout=30, check=False).returncode == 0
