"""The engine in a thread of its own, and the event loop beside it.

Commands go in through a queue that the engine empties between steps; each step's outputs come
back in one hand-off, because waking the loop per token costs the engine milliseconds.
"""

import asyncio
import logging
import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from services.generator.engine import (
    Engine,
    EngineStats,
    FinishReason,
    QueueFullError,
    Refusal,
    RequestError,
    SamplingParams,
    StepOutput,
    sequence_id,
)
from services.generator.serving.engine_thread import EngineThread
from services.generator.serving.metrics import EngineMetrics
from services.generator.serving.watchdog import Watchdog

log = logging.getLogger(__name__)

# a step that takes longer makes unready; checks come a second apart and must see it within five
WEDGED_S = 3.0
CLOSE_LIMIT_S = 10.0
# with an empty queue a place comes up when something that runs ends, and who knows when
UNKNOWN_WAIT_S = 1.0


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

    def __init__(
        self, engine: Engine, max_live: int, thread: EngineThread, wedged_s: float = WEDGED_S
    ) -> None:
        self.engine = engine
        self.metrics = EngineMetrics(engine.stats())
        self.watchdog = Watchdog(wedged_s)
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
        self._on_fault: Callable[[], None] = lambda: None

    @classmethod
    async def load(
        cls, load: Callable[[], Engine], max_live: int, wedged_s: float = WEDGED_S
    ) -> "EngineBridge":
        """Loads an engine in a thread of its own; raises what `load` raises."""
        thread = EngineThread("engine")
        try:
            engine = await asyncio.wrap_future(thread.submit(load))
        except BaseException:
            thread.shutdown()
            raise
        return cls(engine, max_live, thread, wedged_s)

    def start(self, on_fault: Callable[[], None]) -> None:
        """Starts the thread; `on_fault` is called when the engine cannot go on."""
        self._on_fault = on_fault
        self._running = self._thread.submit(self._run)

    def room(self) -> int:
        """Sequences that would be taken now: none while a step does not end."""
        if self.watchdog.is_wedged:
            return 0
        return max(0, self._max_live - len(self._listeners))

    def num_live(self) -> int:
        """Sequences that have not ended."""
        return len(self._listeners)

    def is_live(self, request_id: str) -> bool:
        """Whether this sequence was taken and has not ended."""
        return request_id in self._listeners

    def stats(self) -> EngineStats:
        """The engine's counts after its latest step."""
        return self.metrics.stats

    def expected_wait_s(self) -> float:
        """What a sequence without room is told to wait: as long as the queue takes to empty."""
        return self.stats().expected_wait_s or UNKNOWN_WAIT_S

    def submit(self, submission: Submission, listener: Listener) -> bool:
        """Hands a request to the engine; False when there is no room for all its sequences.

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
        ended = self._running is None or self._running.done()
        if ended or self.watchdog.is_wedged:
            raise TimeoutError

    async def close(self) -> None:
        """Ends the thread after its current step, or leaves it if that does not end; idempotent."""
        if self._running is not None and not self._running.done():
            self._commands.put(None)
            limit_s = 0.0 if self.watchdog.is_wedged else CLOSE_LIMIT_S
            await asyncio.wait([asyncio.wrap_future(self._running)], timeout=limit_s)
            if not self._running.done():
                log.error("the engine's thread is left behind in its step")
        self._thread.shutdown()

    # -- on the engine's thread ---------------------------------------------------------------

    def _run(self) -> None:
        try:
            while True:
                outputs = self._apply_commands()
                if outputs is None:
                    return
                self.watchdog.begin()
                outputs += self.engine.step()
                self.watchdog.end()
                handed = outputs, self.engine.stats(), time.monotonic()
                self._loop.call_soon_threadsafe(self._deliver, *handed)
        except Exception:
            log.exception("the engine failed")
            self._loop.call_soon_threadsafe(self._on_fault)
        finally:
            self.watchdog.end()

    def _apply_commands(self) -> list[StepOutput] | None:
        """Waits for work, then does all that waits; None when it is time to end."""
        outputs: list[StepOutput] = []
        waiting = not self.engine.has_work
        while True:
            try:
                command = self._commands.get(block=waiting)
            except queue.Empty:
                return outputs
            if command is None:
                return None
            outputs += command()
            waiting = False

    def _add(self, submission: Submission) -> list[StepOutput]:
        """Returns the only outputs of sequences that the engine does not take."""
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
            return _refused(submission, Refusal(error.limit, error.expected_wait_s))
        except RequestError as error:
            log.warning("refused %s: %s", submission.request_id, error)
            return _failed(submission)
        except Exception as fault:
            return [*_failed(submission), *self.engine.recover(fault)]
        return []

    def _abort(self, request_id: str) -> list[StepOutput]:
        try:
            output = self.engine.abort(request_id, FinishReason.ABORT)
        except Exception as fault:
            return self.engine.recover(fault)
        return [] if output is None else [output]

    # -- on the event loop --------------------------------------------------------------------

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


def _refused(submission: Submission, refusal: Refusal) -> list[StepOutput]:
    num_prompt_tokens = len(submission.prompt_token_ids)
    return [
        StepOutput(one_id, (), FinishReason.REJECTED, num_prompt_tokens, 0, 0, refusal=refusal)
        for one_id in submission.sequence_ids
    ]


def _failed(submission: Submission) -> list[StepOutput]:
    num_prompt_tokens = len(submission.prompt_token_ids)
    return [
        StepOutput(one_id, (), FinishReason.ERROR, num_prompt_tokens, 0, 0)
        for one_id in submission.sequence_ids
    ]
