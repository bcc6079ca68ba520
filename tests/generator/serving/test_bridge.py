"""The engine's thread and the event loop beside it, with a real tiny model."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from mesh.health import Checks
from services.generator.engine import FinishReason, RequestError, StepOutput
from services.generator.serving.bridge import EngineBridge, EngineFailedError
from tests.generator.serving.tiny_bridge import bridged, submission
from tests.generator.tiny import VOCAB, Ear, load
from tests.waiting import until


async def test_a_sequence_runs_to_its_end(checkpoint: Path) -> None:
    """All tokens arrive, then one outcome; the sequence is live exactly until then."""
    async with bridged(checkpoint) as bridge:
        ear = Ear()
        assert bridge.submit(submission("a", max_tokens=8), ear)
        assert bridge.is_live("a")
        await until(lambda: "a" in ear.ends())
        assert len(ear.tokens("a")) == 8
        assert ear.ends() == {"a": FinishReason.LENGTH}
        assert ear.outputs[-1].finish_reason is FinishReason.LENGTH
        assert not bridge.is_live("a")


async def test_one_hand_off_per_step(checkpoint: Path) -> None:
    """The outputs of one step for one listener come in one call, each listener its own only."""
    async with bridged(checkpoint) as bridge:
        ours, theirs = Ear(), Ear()
        for name in "abc":
            bridge.submit(submission(name, max_tokens=20), ours)
        bridge.submit(submission("d", max_tokens=20), theirs)
        await until(lambda: len(ours.ends()) == 3 and "d" in theirs.ends())
        assert {o.request_id for o in theirs.outputs} == {"d"}
        assert all(len({o.request_id for o in call}) == len(call) for call in ours.calls)
        assert max(map(len, ours.calls)) == 3
        assert len(ours.calls) < 60, "one call per step, not one per token"


async def test_batched_equals_alone(checkpoint: Path) -> None:
    """A greedy sequence gives the same tokens alone and beside others."""
    async with bridged(checkpoint) as bridge:
        alone, ear = Ear(), Ear()
        bridge.submit(submission("x", prompt=(5, 6)), alone)
        await until(lambda: alone.ends())
        for n in range(4):
            bridge.submit(submission(f"y{n}", prompt=(5 + n, 6)), ear)
        await until(lambda: len(ear.ends()) == 4)
        assert ear.tokens("y0") == alone.tokens("x")


async def test_room_is_what_can_be_taken(checkpoint: Path) -> None:
    """Room falls with each sequence and returns with its end; without room nothing is taken."""
    async with bridged(checkpoint, max_live=2) as bridge:
        ear = Ear()
        assert bridge.room() == 2
        assert bridge.submit(submission("a", max_tokens=200), ear)
        assert bridge.submit(submission("b", max_tokens=200), ear)
        assert (bridge.room(), bridge.num_live()) == (0, 2)
        assert not bridge.submit(submission("c"), ear)
        assert not bridge.is_live("c")
        for name in "ab":
            bridge.abort(name)
        await until(lambda: bridge.room() == 2)
        assert "c" not in ear.ends()


async def test_the_expected_wait_is_the_queues(checkpoint: Path) -> None:
    """As the engine told it after its last step; a second where its queue is empty."""
    async with bridged(checkpoint) as bridge:
        bridge.metrics.stats = replace(bridge.stats(), expected_wait_s=7.5)
        assert bridge.expected_wait_s() == 7.5
        bridge.metrics.stats = replace(bridge.stats(), expected_wait_s=0.0)
        assert bridge.expected_wait_s() == 1.0


async def test_a_bad_request_is_refused_before_the_engine(checkpoint: Path) -> None:
    """What cannot be served raises at once and takes no room."""
    async with bridged(checkpoint, max_live=1) as bridge:
        with pytest.raises(RequestError) as refused:
            bridge.submit(submission("a", prompt=(VOCAB,)), Ear())
        assert refused.value.field == "prompt"
        assert bridge.room() == 1


async def test_an_abort_frees_the_blocks_at_once(checkpoint: Path) -> None:
    """An aborted sequence's blocks are free within two steps and 50 ms (p99)."""
    async with bridged(checkpoint) as bridge:
        seconds, steps, longest_step_s = [], [], 0.0
        for trial in range(50):
            ear = Ear()
            name = f"t{trial}"
            prompt = tuple(range(1, 40))
            assert bridge.submit(submission(name, prompt=prompt, max_tokens=200), ear)
            await until(lambda e=ear: e.outputs)
            assert bridge.stats().num_blocks_used > 0
            begun, step = time.perf_counter(), bridge.engine.stats().num_steps
            ended = asyncio.Event()
            ear.receive = lambda _, ended=ended: ended.set()  # type: ignore[method-assign]
            bridge.abort(name)
            while bridge.is_live(name):
                ended.clear()
                await asyncio.wait_for(ended.wait(), 5)
            seconds.append(time.perf_counter() - begun)
            steps.append(bridge.stats().num_steps - step)
            longest_step_s = max(longest_step_s, bridge.stats().last_step_s)
            assert bridge.stats().num_blocks_used == 0
        assert max(steps) <= 2
        assert sorted(seconds)[-2] <= 0.05 + 2 * longest_step_s, "p99 of 50 trials"


async def test_abort_is_idempotent(checkpoint: Path) -> None:
    """Aborting twice, or what is unknown, gives one outcome and harms nobody."""
    async with bridged(checkpoint) as bridge:
        ear = Ear()
        bridge.submit(submission("a", max_tokens=200), ear)
        for name in ("a", "a", "unknown"):
            bridge.abort(name)
        await until(lambda: ear.ends())
        bridge.abort("a")
        other = Ear()
        bridge.submit(submission("b"), other)
        await until(lambda: other.ends())
        assert [o.finish_reason for o in ear.outputs].count(FinishReason.ABORT) == 1


async def test_a_name_is_free_again_after_its_end(checkpoint: Path) -> None:
    """The same id may come again once its sequence has ended."""
    async with bridged(checkpoint) as bridge:
        for _ in range(2):
            ear = Ear()
            assert bridge.submit(submission("a"), ear)
            await until(lambda e=ear: e.ends())


async def test_a_deadline_ends_a_sequence(checkpoint: Path) -> None:
    """A sequence whose deadline has passed ends with that outcome."""
    async with bridged(checkpoint) as bridge:
        ear = Ear()
        bridge.submit(submission("a", max_tokens=200, deadline=time.monotonic() - 1), ear)
        await until(lambda: ear.ends())
        assert ear.ends() == {"a": FinishReason.DEADLINE}


async def test_idle_when_all_have_ended(checkpoint: Path) -> None:
    """`until_idle` returns at once without sequences, else with the end of the last."""
    async with bridged(checkpoint) as bridge:
        await asyncio.wait_for(bridge.until_idle(), 1)
        bridge.submit(submission("a", max_tokens=20), ear := Ear())
        await asyncio.wait_for(bridge.until_idle(), 10)
        assert ear.ends()


async def test_closing_twice(checkpoint: Path) -> None:
    """`close` ends the thread without work, in the midst of it, and again."""
    idle = await EngineBridge.load(lambda: load(checkpoint), 1)
    await idle.close()
    bridge = await EngineBridge.load(lambda: load(checkpoint), 4)
    await bridge.ping()
    bridge.submit(submission("a", max_tokens=200), Ear())
    await bridge.close()
    await bridge.close()
    with pytest.raises(TimeoutError):
        await bridge.ping()


async def test_watching_raises_what_the_engine_did_not_survive(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a step raises, whoever watches gets the fault as the cause, and the ping fails."""
    bridge = await EngineBridge.load(lambda: load(checkpoint), 4)

    def burn() -> None:
        raise RuntimeError("the machine burns")

    monkeypatch.setattr(bridge.engine, "step", burn)
    bridge.submit(submission("a"), Ear())
    with pytest.raises(EngineFailedError) as failed:
        await asyncio.wait_for(bridge.watch(), 5)
    assert str(failed.value.__cause__) == "the machine burns"
    with pytest.raises(TimeoutError):
        await bridge.ping()
    await bridge.close()


@asynccontextmanager
async def wedged(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[EngineBridge, threading.Event]]:
    """A bridge whose engine is stuck in a step until the event is set; one sequence is live."""
    bridge = await EngineBridge.load(lambda: load(checkpoint), 4, wedged_s=0.05)
    entered, go_on = threading.Event(), threading.Event()
    step = bridge.engine.step

    def stuck() -> list[StepOutput]:
        entered.set()
        go_on.wait(30)
        return step()

    monkeypatch.setattr(bridge.engine, "step", stuck)
    bridge.submit(submission("a"), Ear())
    await asyncio.to_thread(entered.wait, 10)
    try:
        yield bridge, go_on
    finally:
        go_on.set()
        await bridge.close()


async def test_a_wedged_engine_is_unready_until_it_goes_on(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A step that does not end fails the ping, takes the room and dumps the stacks once."""
    async with wedged(checkpoint, monkeypatch) as (bridge, go_on):
        await until(lambda: bridge.watchdog.is_wedged)
        checks = Checks()
        checks.add("engine", bridge.ping)
        for _ in range(3):
            assert await checks.failing() == {"engine": "timed out"}
            bridge.watchdog.check()
        assert bridge.room() == 0
        [dump] = [r.getMessage() for r in caplog.records if "has not ended" in r.getMessage()]
        assert "Thread engine:" in dump and "go_on.wait" in dump
        go_on.set()
        await until(lambda: not bridge.watchdog.is_wedged and bridge.num_live() == 0)
        assert await checks.failing() == {}
        assert bridge.room() == 4


async def test_a_stuck_engine_does_not_hang_close(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`close` leaves a thread behind that is known to be wedged."""
    async with wedged(checkpoint, monkeypatch) as (bridge, _):
        await until(lambda: bridge.watchdog.is_wedged)
        await asyncio.wait_for(bridge.close(), 2)


async def test_a_slow_load_is_not_wedged(checkpoint: Path) -> None:
    """Neither loading nor waiting for work counts."""
    bridge = await EngineBridge.load(lambda: load(checkpoint), 4, wedged_s=0.0)
    await bridge.ping()
    await bridge.close()


async def test_a_fault_of_a_step_ends_its_sequences(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All live sequences end with ERROR, the thread goes on and serves the next ones."""
    async with bridged(checkpoint) as bridge:
        ear = Ear()

        def burn(now_s: float) -> None:
            raise KeyError("lost")

        with monkeypatch.context() as patch:
            patch.setattr(bridge.engine._scheduler, "schedule", burn)
            bridge.submit(submission("a"), ear)
            await until(lambda: "a" in ear.ends())
        bridge.submit(submission("b"), ear)
        await until(lambda: "b" in ear.ends())
        assert ear.ends() == {"a": FinishReason.ERROR, "b": FinishReason.LENGTH}


@pytest.mark.parametrize("method", ["add", "finish"])
async def test_a_fault_of_a_command_ends_all_sequences(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Adding and aborting may fail too; the sequence concerned ends like the others."""
    async with bridged(checkpoint) as bridge:
        ear = Ear()
        bridge.submit(submission("a", max_tokens=250), ear)
        await until(lambda: ear.outputs)

        def burn(*_: object) -> None:
            raise KeyError("lost")

        with monkeypatch.context() as patch:
            patch.setattr(bridge.engine._scheduler, method, burn)
            bridge.submit(submission("b", max_tokens=250), ear)
            bridge.abort("b")
            await until(lambda: len(ear.ends()) == 2)
        assert set(ear.ends().values()) == {FinishReason.ERROR}
