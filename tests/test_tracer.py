"""The tracer sees the folders it follows, in every thread and through awaits."""

import asyncio
import threading

from tests import waiting
from tests.tracer import Tracer

HERE = "tests/test_tracer.py"


def crossing() -> None:
    """Stand for a call that leaves the project."""


async def wait_and_cross() -> None:
    await asyncio.sleep(0)
    crossing()


def test_calls_are_kept_while_it_records() -> None:
    """The first function of each file, and no call before or after."""
    tracer = Tracer(["tests"], [])
    with tracer.installed():
        crossing()
        with tracer.recording() as recording:
            asyncio.run(waiting.until(lambda: True))
        crossing()
    assert recording.entered["tests/waiting.py"] == "until"
    assert recording.entered[HERE].endswith("<lambda>")


def test_a_coroutine_that_goes_on_stands_below_what_awaits_it() -> None:
    """The stack at a crossing has the whole chain of awaits, without files of other folders."""

    async def outer() -> None:
        await wait_and_cross()

    tracer = Tracer(["tests"], [crossing.__code__])
    with tracer.installed(), tracer.recording() as recording:
        asyncio.run(outer())
    assert recording.on_stacks == {HERE: "crossing"}
    elsewhere = Tracer(["services"], [crossing.__code__])
    with elsewhere.installed(), elsewhere.recording() as recording:
        asyncio.run(outer())
    assert not recording.entered
    assert not recording.on_stacks


def test_threads_started_later_are_followed() -> None:
    """Those that began before the tracer was there are not."""
    go_on = threading.Event()

    def cross_late() -> None:
        go_on.wait(10)
        crossing()

    tracer = Tracer(["tests"], [crossing.__code__])
    early = threading.Thread(target=cross_late)
    early.start()
    with tracer.installed():
        late = threading.Thread(target=crossing)
        with tracer.recording() as recording:
            go_on.set()
            early.join()
            assert HERE not in recording.entered
            late.start()
            late.join()
    assert recording.entered[HERE] == "crossing"
