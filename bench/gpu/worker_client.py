"""The parts' way to the device: a worker process, replaced when something went wrong in it."""

import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.peers.process import PeerError, WorkerProcess

Ask = Callable[[Mapping[str, Any], float], dict[str, Any]]
"""Asks a question with a limit in seconds; what fails is answered with `failed`."""


class WorkerClient:
    """A context manager that ends its worker.

    A device that has failed once, and an engine that has, may answer anything afterwards: so each
    exception, death or silence costs the worker its life, and the next question has a new one.
    """

    def __init__(self) -> None:
        self._scratch = tempfile.TemporaryDirectory()
        self._worker: WorkerProcess | None = None

    def ask(self, question: Mapping[str, Any], limit_s: float) -> dict[str, Any]:
        """Return the answer, or why there is none as `failed`; never raises for the worker."""
        if self._worker is None:
            log = Path(self._scratch.name) / "worker.log"
            command = [sys.executable, "-m", "bench.gpu.worker"]
            self._worker = WorkerProcess(command, log, {})
        try:
            answer = self._worker.ask(question, limit_s)
        except PeerError as error:
            self.restart()
            return {"failed": str(error)}
        if "trace" in answer:
            self.restart()
        return answer

    @property
    def pid(self) -> int | None:
        """The worker's process id, None where there is none now."""
        return None if self._worker is None else self._worker.pid

    def restart(self) -> None:
        """End the worker, and with it all that it holds; the next question starts another."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def __enter__(self) -> "WorkerClient":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.restart()
        self._scratch.cleanup()
