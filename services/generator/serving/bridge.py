"""The event loop's side of the engine: who listens to which sequence, and how many are live.

Each step's outputs come back in one hand-off, because waking the loop per token costs the engine
milliseconds.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Protocol

from services.generator.engine import Engine, EngineStats, FinishReason, StepOutput
from services.generator.serving.engine_thread import EngineThread
from services.generator.serving.metrics import EngineMetrics
from services.generator.serving.submission import Submission, abort

logger = logging.getLogger(__name__)

# a step that takes longer makes unready; checks come a second apart and must see it within five
WEDGED_S = 3.0
CLOSE_LIMIT_S = 10.0
# with an empty queue a place comes up when something that runs ends, and who knows when
UNKNOWN_WAIT_S = 1.0


class EngineFailedError(Exception):
    """The engine's thread ended; its log has the reason."""


class Listener(Protocol):
    """Receives the outputs of its sequences, once per engine step, on the event loop."""

    def receive(self, outputs: list[StepOutput]) -> None:
        """Must not raise; the last output of a sequence has a finish reason."""
        ...


class EngineBridge:
    """Hands requests to the engine's thread, and outputs to their listeners; lives on the loop."""

    def __init__(self, engine: Engine, max_live: int, thread: EngineThread) -> None:
        self.engine = engine
        self.metrics = EngineMetrics(engine.stats())
        self.watchdog = thread.watchdog
        self._max_live = max_live
        self._listeners: dict[str, Listener] = {}
        self._thread = thread
        self._idle = asyncio.Event()
        self._idle.set()
        loop = asyncio.get_running_loop()
        thread.start(lambda *step: loop.call_soon_threadsafe(self._deliver, *step))

    @classmethod
    async def load(
        cls, load: Callable[[], Engine], max_live: int, wedged_s: float = WEDGED_S
    ) -> "EngineBridge":
        """Load an engine in a thread of its own, which runs from then on; raise what `load` does.

        At most `max_live` sequences are taken at a time; `wedged_s` is how long a step may take
        before the engine counts as wedged.
        """
        thread = EngineThread(load, wedged_s)
        try:
            engine = await asyncio.wrap_future(thread.loaded)
        except BaseException:
            thread.stop()
            raise
        return cls(engine, max_live, thread)

    def room(self) -> int:
        """Return how many sequences would be taken now: none while a step does not end."""
        if self.watchdog.is_wedged:
            return 0
        return max(0, self._max_live - len(self._listeners))

    def num_live(self) -> int:
        """Return the number of sequences that have not ended."""
        return len(self._listeners)

    def is_live(self, request_id: str) -> bool:
        """Return whether this sequence was taken and has not ended."""
        return request_id in self._listeners

    def stats(self) -> EngineStats:
        """Return the engine's counters after its latest step."""
        return self.metrics.stats

    def expected_wait_s(self) -> float:
        """Return how long the queue takes to empty, for a sequence without room."""
        return self.stats().expected_wait_s or UNKNOWN_WAIT_S

    def submit(self, submission: Submission, listener: Listener) -> bool:
        """Hand a request to the engine; False when there is no room for all its sequences.

        Raises what `Engine.validate` raises.
        """
        self.engine.validate(submission.prompt_token_ids, submission.params)
        if self.room() < len(submission.sequence_ids):
            self.metrics.refused("no_room")
            return False
        for one_id in submission.sequence_ids:
            self.metrics.arrived(one_id, submission.params.max_tokens)
            self._listeners[one_id] = listener
        self._idle.clear()
        self._thread.put(submission.add_to)
        return True

    def abort(self, request_id: str, reason: FinishReason = FinishReason.ABORT) -> None:
        """End a sequence before the next step, with a last output. Idempotent."""
        if request_id in self._listeners:
            self._thread.put(partial(abort, request_id=request_id, reason=reason))

    async def until_idle(self) -> None:
        """Return when no sequence is live."""
        await self._idle.wait()

    async def ping(self) -> None:
        """Raise TimeoutError when the thread has ended or a step does not."""
        if self._thread.ended.done() or self.watchdog.is_wedged:
            raise TimeoutError

    async def watch(self) -> None:
        """Return when the thread ends; raise EngineFailedError where the engine made it end."""
        fault = await asyncio.wrap_future(self._thread.ended)
        if fault is not None:
            # nothing that is live will end: a drain must not wait for it
            self._idle.set()
            raise EngineFailedError from fault

    async def close(self) -> None:
        """End the thread after its current step, or leave it if that does not end; idempotent."""
        self._thread.stop()
        limit_s = 0.0 if self.watchdog.is_wedged else CLOSE_LIMIT_S
        await asyncio.wait([asyncio.wrap_future(self._thread.ended)], timeout=limit_s)
        if not self._thread.ended.done():
            logger.error("the engine's thread is left behind in its step")

    def _deliver(self, outputs: list[StepOutput], stats: EngineStats, now_s: float) -> None:
        self.metrics.stepped(outputs, stats, now_s)
        by_listener: dict[int, tuple[Listener, list[StepOutput]]] = {}
        for output in outputs:
            listener = self._listeners.get(output.request_id)
            if listener is None:
                continue
            if output.finish_reason is not None:
                del self._listeners[output.request_id]
            by_listener.setdefault(id(listener), (listener, []))[1].append(output)
        if not self._listeners:
            self._idle.set()
        for listener, own in by_listener.values():
            listener.receive(own)
