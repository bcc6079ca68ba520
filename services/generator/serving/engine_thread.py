"""A thread that a process can leave behind."""

import gc
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class EngineThread:
    """Runs what it is given, one after the other, in one daemon thread.

    The interpreter waits for the threads of a ThreadPoolExecutor when it ends, for ever where one
    is stuck; for this one it does not.
    """

    def __init__(self, name: str) -> None:
        self._work: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = (
            queue.SimpleQueue()
        )
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Runs `call` once what was given before has ended."""
        future: Future[T] = Future()
        self._work.put((call, future))
        return future

    def shutdown(self) -> None:
        """Ends the thread after what it was given; does not wait. Idempotent."""
        self._work.put(None)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            call, future = work
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)


def spare_what_is_loaded() -> None:
    """Let no collection look at what is there now: that would stop a step meanwhile."""
    gc.collect()
    gc.freeze()
