"""The engine in a thread of its own: loaded there, then stepped; between two steps, commands."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from services.generator.engine import Engine, EngineStats, StepOutput
from services.generator.serving.watchdog import Watchdog

logger = logging.getLogger(__name__)

# what the engine's owner wants done; returns outputs as a step does
Command = Callable[[Engine], list[StepOutput]]
# takes a step's outputs, the counters after it and the monotonic time; must not block
HandOff = Callable[[list[StepOutput], EngineStats, float], object]


class EngineThread:
    """Steps the engine while it has work, and waits for commands while it has none.

    An engine stays in the thread that loaded it: OpenMP keeps a team of threads for each thread
    that computes, and with two teams on the same cores it all but stops spinning, which doubles the
    time of a step. The thread is a daemon: the interpreter would wait for one of a
    ThreadPoolExecutor when it ends, for ever where that is stuck in a step.

    `loaded` has what `load` returns or raises. `ended` is done once the thread steps no more, and
    has the fault that the engine did not survive, if one did.
    """

    def __init__(self, load: Callable[[], Engine], wedged_s: float) -> None:
        self.watchdog = Watchdog(wedged_s)
        self.loaded: Future[Engine] = Future()
        self.ended: Future[BaseException | None] = Future()
        for future in (self.loaded, self.ended):
            # who stops waiting for it does not cancel it
            future.set_running_or_notify_cancel()
        # bounded by its owner: an add and an abort for each live sequence
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._hand_off: HandOff = lambda outputs, stats, now_s: None
        threading.Thread(target=self._run, args=(load,), name="engine", daemon=True).start()

    def start(self, hand_off: HandOff) -> None:
        """Call `hand_off` in this thread after each step; to be set before the first command."""
        self._hand_off = hand_off

    def put(self, command: Command) -> None:
        """Have a command done before the next step."""
        self._commands.put(command)

    def stop(self) -> None:
        """Have the thread end after its current step; does not wait. Idempotent."""
        self._commands.put(None)

    def _run(self, load: Callable[[], Engine]) -> None:
        try:
            engine = load()
        except BaseException as error:
            self.ended.set_result(None)
            self.loaded.set_exception(error)
            return
        self.loaded.set_result(engine)
        try:
            self._step_until_stopped(engine)
        except BaseException as fault:
            logger.exception("the engine failed")
            self.watchdog.end()
            self.ended.set_result(fault)
        else:
            self.ended.set_result(None)

    def _step_until_stopped(self, engine: Engine) -> None:
        while (outputs := self._do_commands(engine)) is not None:
            self.watchdog.begin()
            outputs += engine.step()
            self.watchdog.end()
            self._hand_off(outputs, engine.stats(), time.monotonic())

    def _do_commands(self, engine: Engine) -> list[StepOutput] | None:
        """Wait for work, then do all commands that wait; return None when it is time to end."""
        outputs: list[StepOutput] = []
        waits = not engine.has_work
        while True:
            try:
                command = self._commands.get(block=waits)
            except queue.Empty:
                return outputs
            if command is None:
                return None
            outputs += command(engine)
            waits = False
