"""The engine in a thread of its own, and the event loop beside it.

Commands go in through a queue that the engine empties between steps; each step's outputs come
back in one hand-off, because waking the loop per token costs the engine milliseconds.
"""

import asyncio
import logging
import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from services.generator.engine import (
    Engine,
    EngineStats,
    FinishReason,
    QueueFullError,
    SamplingParams,
    StepOutput,
    sequence_id,
)

log = logging.getLogger(__name__)

WEDGED_S = 5.0
CLOSE_LIMIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Submission:
    """A request for the engine; `deadline` is on the monotonic clock, in seconds."""

    request_id: str
    prompt_token_ids: Sequence[int]
    params: SamplingParams
    deadline: float
    cache_salt: str = ""
    priority: int = 0
    tenant: str = ""

    @property
    def sequence_ids(self) -> tuple[str, ...]:
        """The ids under which its outputs come, each with an outcome."""
        return tuple(
            sequence_id(self.request_id, index) for index in range(self.params.num_outcomes)
        )


class Listener(Protocol):
    """Receives the outputs of its sequences, once per engine step, on the event loop."""

    def receive(self, outputs: list[StepOutput]) -> None:
        """Must not raise; the last output of a sequence has a finish reason."""
        ...


class EngineBridge:
    """Owns the engine's thread. Everything but the thread's own loop runs on the event loop.

    `load` brings the engine with the thread that it was loaded in, and it must stay there: OpenMP
    keeps a team of threads for each thread that computes, and with two teams on the same cores it
    all but stops spinning, which doubles the time of a step.
    """

    def __init__(self, engine: Engine, max_live: int, thread: ThreadPoolExecutor) -> None:
        self.engine = engine
        self._max_live = max_live
        self._commands: queue.SimpleQueue[Callable[[], list[StepOutput]] | None] = (
            queue.SimpleQueue()  # bounded by max_live: an add and an abort for each
        )
        self._listeners: dict[str, Listener] = {}
        self._loop = asyncio.get_running_loop()
        self._thread = thread
        self._running: Future[None] | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._stats = engine.stats()
        self._busy_since: float | None = None
        self._on_fault: Callable[[], None] = lambda: None

    @classmethod
    async def load(cls, load: Callable[[], Engine], max_live: int) -> "EngineBridge":
        """Loads an engine in a thread of its own; raises what `load` raises."""
        thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        try:
            engine = await asyncio.get_running_loop().run_in_executor(thread, load)
        except BaseException:
            thread.shutdown(wait=False)
            raise
        return cls(engine, max_live, thread)

    def start(self, on_fault: Callable[[], None]) -> None:
        """Starts the thread; `on_fault` is called when the engine cannot go on."""
        self._on_fault = on_fault
        self._running = self._thread.submit(self._run)

    def room(self) -> int:
        """Sequences that would be taken now."""
        return max(0, self._max_live - len(self._listeners))

    def num_live(self) -> int:
        """Sequences that have not ended."""
        return len(self._listeners)

    def is_live(self, request_id: str) -> bool:
        """Whether this sequence was taken and has not ended."""
        return request_id in self._listeners

    def stats(self) -> EngineStats:
        """The engine's counts after its latest step."""
        return self._stats

    def submit(self, submission: Submission, listener: Listener) -> bool:
        """Hands a request to the engine; False when there is no room for all its sequences.

        Raises what `Engine.validate` raises.
        """
        self.engine.validate(submission.prompt_token_ids, submission.params)
        if self.room() < len(submission.sequence_ids):
            return False
        self._listeners.update(dict.fromkeys(submission.sequence_ids, listener))
        self._idle.clear()
        self._commands.put(lambda: self._add(submission))
        return True

    def abort(self, request_id: str) -> None:
        """Ends a sequence before the next step; its listener hears of it. Idempotent."""
        if request_id in self._listeners:
            self._commands.put(lambda: self._abort(request_id))

    async def until_idle(self) -> None:
        """Returns when no sequence is live."""
        await self._idle.wait()

    async def ping(self) -> None:
        """Raises when the engine has not finished a step for a while although it has work."""
        since = self._busy_since
        ended = self._running is None or self._running.done()
        if ended or (since and time.monotonic() - since > WEDGED_S):
            raise TimeoutError

    async def close(self) -> None:
        """Ends the thread after its current step; idempotent."""
        if self._running is not None and not self._running.done():
            self._commands.put(None)
            await asyncio.wait([asyncio.wrap_future(self._running)], timeout=CLOSE_LIMIT_S)
        self._thread.shutdown(wait=False)

    # -- on the engine's thread ---------------------------------------------------------------

    def _run(self) -> None:
        try:
            while True:
                ended = self._apply_commands()
                if ended is None:
                    return
                self._busy_since = time.monotonic()
                outputs = ended + self.engine.step()
                self._busy_since = None
                if outputs:
                    stats = self.engine.stats()
                    self._loop.call_soon_threadsafe(self._deliver, outputs, stats)
        except Exception:
            log.exception("the engine failed")
            self._loop.call_soon_threadsafe(self._on_fault)

    def _apply_commands(self) -> list[StepOutput] | None:
        """Waits for work, then does all that waits; None when it is time to end."""
        ended: list[StepOutput] = []
        waiting = not self.engine.has_work
        while True:
            try:
                command = self._commands.get(block=waiting)
            except queue.Empty:
                return ended
            if command is None:
                return None
            ended += command()
            waiting = False

    def _abort(self, one_id: str) -> list[StepOutput]:
        output = self.engine.abort(one_id, FinishReason.ABORT)
        return [] if output is None else [output]

    def _add(self, submission: Submission) -> list[StepOutput]:
        """Returns the only outputs of sequences for which the engine's queue has no place."""
        try:
            self.engine.add(
                submission.request_id,
                submission.prompt_token_ids,
                submission.params,
                cache_salt=submission.cache_salt,
                priority=submission.priority,
                deadline=submission.deadline,
                tenant=submission.tenant,
            )
        except QueueFullError as error:
            log.warning("refused %s: %s", submission.request_id, error)
            num_prompt_tokens = len(submission.prompt_token_ids)
            return [
                StepOutput(one_id, (), FinishReason.REJECTED, num_prompt_tokens, 0, 0)
                for one_id in submission.sequence_ids
            ]
        return []

    # -- on the event loop --------------------------------------------------------------------

    def _deliver(self, outputs: list[StepOutput], stats: EngineStats) -> None:
        self._stats = stats
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
