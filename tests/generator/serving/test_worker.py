"""A generator replica on a real bus, with a real tiny engine, seen by a gateway made by hand."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from mesh.bus import Bus, subjects
from mesh.bus.messages import VERSION
from mesh.pb import common_pb2, events_pb2
from services.generator.engine import FinishReason, QueueFullError
from services.generator.serving import wire, worker
from services.generator.serving.bridge import EngineBridge
from services.generator.serving.worker import Worker
from tests.generator.serving.tiny_bridge import bridged
from tests.generator.tiny import VOCAB
from tests.waiting import until

ABORT, LENGTH = common_pb2.FINISH_REASON_ABORT, common_pb2.FINISH_REASON_LENGTH
STOP = common_pb2.FINISH_REASON_STOP
ERROR, REJECTED = common_pb2.FINISH_REASON_ERROR, common_pb2.FINISH_REASON_REJECTED


class HandGateway:
    """Sends commands and remembers what a replica says."""

    def __init__(self, bus: Bus, name: str, replica_id: str, revision: str) -> None:
        self.bus = bus
        self.name = name
        self.replica_id = replica_id
        self.revision = revision
        self.frames: list[events_pb2.Frame] = []
        self.beats: list[events_pb2.Frame] = []
        self.announcements: list[events_pb2.Announcement] = []

    async def open(self) -> None:
        await self.bus.subscribe(subjects.frames(self.name), events_pb2.Frame, self._on_frame)
        await self.bus.subscribe(subjects.ANNOUNCE, events_pb2.Announcement, self._on_announcement)
        await self.bus.publish(subjects.HELLO, events_pb2.Hello(gateway_id=self.name))

    async def command(self, **command: object) -> None:
        message = events_pb2.Command(gateway_id=self.name, **command)
        await self.bus.publish(subjects.commands(self.replica_id), message)

    async def job(self, name: str, **changes: object) -> None:
        """A greedy job of 8 tokens unless changed."""
        sampling = common_pb2.SamplingParams(max_tokens=8, ignore_eos=True)
        if "max_tokens" in changes:
            sampling.max_tokens = changes.pop("max_tokens")  # type: ignore[assignment]
        fields: dict[str, object] = {
            "job_id": name,
            "prompt_token_ids": [1, 2, 3],
            "sampling": sampling,
            "deadline_unix_ms": int((time.time() + 30) * 1000),
            "model_revision": self.revision,
        }
        await self.command(job=events_pb2.Job(**{**fields, **changes}))

    def deltas(self, name: str) -> list[events_pb2.SequenceDelta]:
        return [d for f in self.frames for d in f.deltas if d.job_id == name]

    def tokens(self, name: str) -> list[int]:
        return [t for d in self.deltas(name) for t in d.token_ids]

    def end(self, name: str) -> "common_pb2.FinishReason":
        """The job's outcome; 0 while there is none."""
        reasons = [d.finish_reason for d in self.deltas(name) if d.finish_reason]
        assert len(reasons) <= 1, "one outcome only"
        return reasons[0] if reasons else common_pb2.FINISH_REASON_UNSPECIFIED

    def _on_frame(self, frame: events_pb2.Frame, headers: Mapping[str, str]) -> None:
        (self.frames if frame.deltas else self.beats).append(frame)

    def _on_announcement(
        self, message: events_pb2.Announcement, headers: Mapping[str, str]
    ) -> None:
        if message.replica_id == self.replica_id:
            self.announcements.append(message)


class Replica:
    """A running worker over a tiny engine."""

    def __init__(self, nats_url: str, stack: AsyncExitStack) -> None:
        self.nats_url = nats_url
        self.stack = stack
        self.id = f"replica-{time.monotonic_ns()}"
        self.bridge: EngineBridge
        self.worker: Worker
        self.model: common_pb2.ModelInfo

    async def open(self, checkpoint: Path, max_live: int) -> None:
        self.bridge = await self.stack.enter_async_context(bridged(checkpoint, max_live=max_live))
        bus = await Bus.connect(self.nats_url, self.id)
        self.stack.push_async_callback(bus.close)
        self.model = wire.model_info(checkpoint, "tiny", self.bridge.engine)
        self.worker = Worker(bus, self.bridge, self.model, self.id)
        self.stack.push_async_callback(self.worker.close)
        await self.worker.start()
        self.running = asyncio.create_task(self.worker.run())
        self.stack.push_async_callback(self._stop)

    async def gateway(self, name: str = "") -> HandGateway:
        bus = await Bus.connect(self.nats_url, "gateway")
        self.stack.push_async_callback(bus.close)
        name = name or f"gateway-{time.monotonic_ns()}"
        made = HandGateway(bus, name, self.id, self.model.revision)
        await made.open()
        await until(lambda: made.announcements)
        return made

    async def _stop(self) -> None:
        assert not self.running.done(), self.running
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)


@pytest.fixture
async def replica(nats_url: str, checkpoint: Path) -> AsyncIterator[Replica]:
    """A replica with room for four jobs; its engine must end without sequences or blocks."""
    async with AsyncExitStack() as stack:
        made = Replica(nats_url, stack)
        await made.open(checkpoint, 4)
        yield made
        await until(lambda: made.bridge.num_live() == 0)
        await made.worker.close()
        await made.worker.close()


async def test_a_job_is_answered_in_numbered_frames(replica: Replica) -> None:
    """The tokens come in order, frames are numbered from 1 without gaps, the end has its usage."""
    gateway = await replica.gateway()
    await gateway.job("a")
    await until(lambda: gateway.end("a"))
    assert gateway.end("a") == LENGTH
    assert len(gateway.tokens("a")) == 8
    assert [f.number for f in gateway.frames] == list(range(1, len(gateway.frames) + 1))
    last = gateway.deltas("a")[-1]
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (3, 8)
    assert last.timings.prefill_s > 0
    first, *later = gateway.deltas("a")
    assert first.start.prefill_s == last.timings.prefill_s
    assert not any(delta.HasField("start") for delta in later)
    assert {f.replica_id for f in gateway.frames} == {replica.id}


async def test_a_jobs_tenant_and_priority_reach_the_engine(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine orders a job by the class and the tenant that it carries."""
    engine, asked = replica.bridge.engine, []
    add = engine.add

    def heard(*args: Any, **kwargs: Any) -> None:
        asked.append((kwargs["tenant"], kwargs["priority"]))
        add(*args, **kwargs)

    monkeypatch.setattr(engine, "add", heard)
    gateway = await replica.gateway()
    await gateway.job("a", tenant="acme", priority=-3)
    await until(lambda: gateway.end("a"))
    assert asked == [("acme", -3)]


async def test_frames_carry_log_probabilities(replica: Replica) -> None:
    """A job that asks gets one per token and its prompt's, a job beside it gets none."""
    gateway = await replica.gateway()
    sampling = common_pb2.SamplingParams(
        max_tokens=4, ignore_eos=True, logprobs=3, prompt_logprobs=1
    )
    await gateway.job("a", sampling=sampling)
    await gateway.job("b")
    await until(lambda: gateway.end("a") and gateway.end("b"))
    told = [one for delta in gateway.deltas("a") for one in delta.logprobs]
    assert [one.token_id for one in told] == gateway.tokens("a")
    prompt = [one for delta in gateway.deltas("a") for one in delta.prompt_logprobs]
    assert [(one.token_id, len(one.top_logprobs)) for one in prompt] == [(2, 1), (3, 1)]
    assert not any(d.logprobs or d.prompt_logprobs for d in gateway.deltas("b"))


async def test_one_frame_holds_all_sequences_of_a_step(replica: Replica) -> None:
    """Jobs that run together share frames."""
    gateway = await replica.gateway()
    for name in "abc":
        await gateway.job(name, max_tokens=60)
    await until(lambda: all(gateway.end(name) for name in "abc"))
    assert max(len({d.job_id for d in f.deltas}) for f in gateway.frames) == 3
    assert len(gateway.frames) < 180


async def test_each_gateway_hears_of_its_own_jobs(replica: Replica) -> None:
    """Two gateways have lines of their own, both numbered from 1."""
    first, second = await replica.gateway(), await replica.gateway()
    await first.job("a")
    await second.job("b")
    await until(lambda: first.end("a") and second.end("b"))
    for gateway, name in ((first, "a"), (second, "b")):
        assert {d.job_id for f in gateway.frames for d in f.deltas} == {name}
        assert gateway.frames[0].number == 1


async def test_hello_is_answered_at_once(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that starts need not wait for the next regular announcement."""
    monkeypatch.setattr(worker, "ANNOUNCE_INTERVAL_S", 60.0)
    await replica.gateway()
    gateway = await replica.gateway()
    announced = gateway.announcements[-1]
    assert announced.model == replica.model
    assert announced.room_sequences == 4
    assert announced.room_tokens > 256
    assert (announced.running, announced.draining) == (0, False)


async def test_announcements_tell_jobs_and_room(replica: Replica) -> None:
    """A running job takes room and is listed; a heartbeat with the last number comes along."""
    gateway = await replica.gateway()
    await gateway.job("a", max_tokens=250)
    await until(lambda: gateway.deltas("a"))
    await gateway.bus.publish(subjects.HELLO, events_pb2.Hello(gateway_id=gateway.name))
    await until(lambda: list(gateway.announcements[-1].job_ids) == ["a"] or gateway.end("a"))
    if not gateway.end("a"):
        assert gateway.announcements[-1].room_sequences == 3
        assert gateway.announcements[-1].running == 1
    await gateway.command(cancel=events_pb2.Cancel(job_id="a"))
    await until(lambda: gateway.end("a"))
    await until(lambda: not gateway.announcements[-1].job_ids)
    await until(lambda: gateway.beats and gateway.beats[-1].number == gateway.frames[-1].number)


async def test_frames_are_sent_again(replica: Replica) -> None:
    """A gateway that missed frames gets the same ones once more."""
    gateway = await replica.gateway()
    await gateway.job("a", max_tokens=60)
    await until(lambda: gateway.end("a"))
    seen = list(gateway.frames)
    gateway.frames.clear()
    last = len(seen)
    await gateway.command(resend=events_pb2.Resend(first=2, last=last + 5))
    await until(lambda: len(gateway.frames) == last - 1)
    assert [f.number for f in gateway.frames] == list(range(2, last + 1))
    assert [f.deltas for f in gateway.frames] == [f.deltas for f in seen[1:]]


async def test_another_revision_is_rejected(replica: Replica) -> None:
    """A job for other weights is sent back unstarted, so that it can go elsewhere."""
    gateway = await replica.gateway()
    await gateway.job("a", model_revision="another")
    await until(lambda: gateway.end("a"))
    assert gateway.end("a") == REJECTED
    assert replica.bridge.engine.stats().num_admissions == 0


async def test_without_room_jobs_are_rejected(replica: Replica) -> None:
    """The fifth of four is sent back."""
    gateway = await replica.gateway()
    for name in "abcde":
        await gateway.job(name, max_tokens=250)
    await until(lambda: gateway.end("e"))
    assert gateway.end("e") == REJECTED
    assert gateway.deltas("e")[-1].HasField("expected_wait_s")
    for name in "abcd":
        await gateway.command(cancel=events_pb2.Cancel(job_id=name))
    await until(lambda: all(gateway.end(name) for name in "abcd"))


async def test_a_rejection_tells_the_expected_wait(replica: Replica) -> None:
    """The wait crosses the bus where a place may come up, and only there."""

    def full(*_: object, **__: object) -> None:
        raise QueueFullError("max_queued_tokens", 12.5)

    gateway = await replica.gateway()
    replica.bridge.engine.add = full  # type: ignore[method-assign]
    await gateway.job("full")
    await gateway.job("foreign", model_revision="another")
    await until(lambda: gateway.end("full") and gateway.end("foreign"))
    [full_delta], [foreign] = gateway.deltas("full"), gateway.deltas("foreign")
    assert (full_delta.finish_reason, full_delta.expected_wait_s) == (REJECTED, 12.5)
    assert foreign.finish_reason == REJECTED and not foreign.HasField("expected_wait_s")
    assert replica.bridge.metrics.refusals == {"max_queued_tokens": 1, "revision": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"sampling": common_pb2.SamplingParams(max_tokens=0)},
        {"sampling": common_pb2.SamplingParams(max_tokens=4, top_p=7)},
        {"sampling": common_pb2.SamplingParams(max_tokens=100_000)},
        {"prompt_token_ids": []},
        {"prompt_token_ids": [VOCAB]},
    ],
)
async def test_an_impossible_job_ends_with_an_error(
    replica: Replica, changes: dict[str, object]
) -> None:
    """What no replica could serve ends at once, and the engine lives on."""
    gateway = await replica.gateway()
    await gateway.job("bad", **changes)
    await gateway.job("good")
    await until(lambda: gateway.end("bad") and gateway.end("good"))
    assert (gateway.end("bad"), gateway.end("good")) == (ERROR, LENGTH)


async def test_a_late_job_ends_by_its_deadline(replica: Replica) -> None:
    """A deadline that has passed on the way is the job's outcome."""
    gateway = await replica.gateway()
    await gateway.job("a", deadline_unix_ms=int((time.time() - 1) * 1000))
    await until(lambda: gateway.end("a"))
    assert gateway.end("a") == common_pb2.FINISH_REASON_DEADLINE


@pytest.mark.parametrize(("stopped", "outcome"), [(False, "abort"), (True, "stop")])
async def test_a_cancel_ends_a_job(replica: Replica, stopped: bool, outcome: str) -> None:
    """A job that is given up ends with ABORT, one with all of its text with STOP."""
    gateway = await replica.gateway()
    await gateway.job("a", max_tokens=250)
    await until(lambda: gateway.deltas("a"))
    await gateway.command(cancel=events_pb2.Cancel(job_id="a", stopped=stopped))
    await until(lambda: gateway.end("a"))
    assert gateway.end("a") == (STOP if stopped else ABORT)
    assert replica.bridge.stats().outcomes == {FinishReason(outcome): 1}
    assert replica.bridge.stats().num_blocks_used == 0


async def test_a_second_job_of_one_id_is_ignored(replica: Replica) -> None:
    """Sent twice, by one gateway or by two, a job runs once and harms nobody."""
    gateway, other = await replica.gateway(), await replica.gateway()
    await gateway.job("a", max_tokens=250)
    await gateway.job("a", max_tokens=250)
    await until(lambda: gateway.deltas("a"))
    await other.job("a")
    await other.job("b")
    await until(lambda: other.end("b"))
    await gateway.command(cancel=events_pb2.Cancel(job_id="a"))
    await until(lambda: gateway.end("a"))
    assert replica.bridge.engine.stats().num_admissions == 2


async def test_a_silent_gateways_jobs_are_ended(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody reads the answers of a gateway that fell silent; another one's jobs go on."""
    gateway, other = await replica.gateway(), await replica.gateway()
    await gateway.job("a", max_tokens=250)
    await until(lambda: gateway.deltas("a"))
    monkeypatch.setattr(worker, "GATEWAY_SILENCE_S", 0.0)
    await other.job("b", max_tokens=2)
    await other.bus.publish(subjects.HELLO, events_pb2.Hello(gateway_id=other.name))
    await until(lambda: gateway.end("a"))
    monkeypatch.setattr(worker, "GATEWAY_SILENCE_S", 5.0)
    await gateway.job("again")
    await until(lambda: gateway.end("again"))


async def test_draining_finishes_what_was_taken(replica: Replica) -> None:
    """A replica that drains says so, sends back new jobs, and finishes those it has."""
    gateway = await replica.gateway()
    await gateway.job("a", max_tokens=150)
    await until(lambda: gateway.deltas("a"))
    draining = asyncio.create_task(replica.worker.drain())
    await until(lambda: gateway.announcements[-1].draining)
    assert gateway.announcements[-1].room_sequences == 0
    await gateway.job("late")
    await until(lambda: gateway.end("late"))
    assert gateway.end("late") == REJECTED
    await asyncio.wait_for(draining, 10)
    await until(lambda: gateway.end("a"))
    assert (gateway.end("a"), len(gateway.tokens("a"))) == (LENGTH, 150)


async def test_what_is_no_command_is_dropped(replica: Replica) -> None:
    """Bytes that are no message, or of a newer version, neither end the worker nor run."""
    gateway = await replica.gateway()
    future = events_pb2.Command(
        version=VERSION + 1, gateway_id=gateway.name, job=events_pb2.Job(job_id="x")
    )
    for data in (b"\xff\xff", future.SerializeToString()):
        await gateway.bus._client.publish(subjects.commands(replica.id), data)
    await gateway.job("a")
    await until(lambda: gateway.end("a"))
    assert not gateway.deltas("x")


async def test_a_beam_search_is_one_job(replica: Replica) -> None:
    """Its only delta has the best sequences; a job of several draws is refused."""
    gateway = await replica.gateway()
    search = common_pb2.SamplingParams(max_tokens=5, ignore_eos=True, beam_width=3, n=2)
    draws = common_pb2.SamplingParams(max_tokens=5, ignore_eos=True, n=2)
    await gateway.job("search", sampling=search)
    await gateway.job("draws", sampling=draws)
    await until(lambda: gateway.end("search") and gateway.end("draws"))
    [delta] = gateway.deltas("search")
    assert (delta.finish_reason, len(delta.token_ids)) == (LENGTH, 5)
    assert [len(beam.token_ids) for beam in delta.other_beams] == [5]
    assert gateway.end("draws") == ERROR
