"""The generator stage as the gateway sees it: a real bus, a real tokenizer, scripted replicas."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from typing import Any

import pytest

from mesh import rpc
from mesh.bus import Bus, subjects
from mesh.bus.messages import VERSION
from mesh.context import RequestContext
from mesh.errors import Code, MeshError
from mesh.pb import common_pb2, events_pb2
from services.gateway.domain.generation import (
    Defaults,
    GenerationRequest,
    Model,
    Sampling,
    TextDelta,
    Timings,
    Usage,
)
from services.gateway.generation import detokenizer, dispatcher, fleet
from services.gateway.generation.detokenizer import Detokenizer
from services.gateway.generation.dispatcher import Dispatcher
from services.gateway.generation.fleet import Fleet
from tests.gateway.scripted import (
    LENGTH,
    LETTERS,
    REJECTED,
    STOP,
    LetterTokenizer,
    ScriptedReplica,
    ids,
)
from tests.waiting import until

MODEL = Model("letters", "r1", 512, len(LETTERS))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits in time, shortened: a scripted replica announces itself 20 times a second."""
    monkeypatch.setattr(fleet, "TICK_S", 0.05)
    monkeypatch.setattr(fleet, "UNDELIVERED_LIMIT_S", 0.2)
    monkeypatch.setattr(dispatcher, "SILENCE_LIMIT_S", 1.5)
    monkeypatch.setattr(dispatcher, "MISSING_LIMIT_S", 0.8)


class Reading:
    """One stream being read by a task: the text so far and how it ended."""

    def __init__(self, deltas: AsyncIterator[TextDelta]) -> None:
        self.deltas: list[TextDelta] = []
        self.error: MeshError | None = None
        self.task = asyncio.create_task(self._read(deltas))

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    @property
    def last(self) -> TextDelta:
        return self.deltas[-1]

    async def done(self) -> "Reading":
        await asyncio.wait_for(asyncio.shield(self.task), 20)
        return self

    async def _read(self, deltas: AsyncIterator[TextDelta]) -> None:
        try:
            async with aclosing(deltas):  # type: ignore[type-var]
                async for delta in deltas:
                    self.deltas.append(delta)
        except MeshError as error:
            self.error = error


class Stage:
    """A gateway's generator stage and the means to put replicas beside it."""

    def __init__(self, stack: AsyncExitStack, nats_url: str, tokenizer: LetterTokenizer) -> None:
        self.stack = stack
        self.nats_url = nats_url
        self.tokenizer = tokenizer
        self.readings: list[Reading] = []
        self.fleet: Fleet
        self.dispatcher = Dispatcher(8, 4000)
        self.detokenizer: Detokenizer
        self.running: asyncio.Task[None]

    async def open(self) -> None:
        bus = await Bus.connect(self.nats_url, "gateway")
        self.stack.push_async_callback(bus.close)
        channel = await self.stack.enter_async_context(
            rpc.channel(f"127.0.0.1:{self.tokenizer.port}")
        )
        self.detokenizer = Detokenizer(channel)
        self.fleet = Fleet(bus, self.dispatcher, self.detokenizer)
        await self.fleet.start()
        self.running = asyncio.create_task(self._run())
        self.stack.push_async_callback(self._stop)

    async def replica(self, name: str, room: int = 4, revision: str = "r1") -> ScriptedReplica:
        """A replica that the gateway knows of; each has a connection of its own."""
        bus = await Bus.connect(self.nats_url, name)
        self.stack.push_async_callback(bus.close)
        made = ScriptedReplica(bus, name, revision)
        made.room = room
        await self.stack.enter_async_context(made.running())
        await until(lambda: name in self.dispatcher.replica_ids())
        await until(lambda: made.gateways)
        return made

    def read(
        self,
        *stop: str,
        timeout_s: float = 20.0,
        max_tokens: int = 20,
        include_stop: bool = False,
        model: Model = MODEL,
        answer_prefix: str = "",
        **sampling: Any,
    ) -> Reading:
        """Begins a sequence and reads it in a task."""
        asked = request(*stop, max_tokens=max_tokens, include_stop=include_stop, model=model)
        asked = replace(
            asked, answer_prefix=answer_prefix, sampling=replace(asked.sampling, **sampling)
        )
        deltas = self.fleet.stream(asked, RequestContext.start(timeout_s, "req-1"))
        reading = Reading(deltas)
        self.readings.append(reading)
        return reading

    def left(self) -> dict[str, int]:
        """What still holds on to any sequence."""
        streams = self.detokenizer._streams
        return {
            "sequences": len(self.fleet._sequences),
            "waiting": self.dispatcher.num_waiting(),
            "running": self.dispatcher.num_running(),
            "texts": sum(len(stream.sequences) for stream in streams),
            "streams": len(self.detokenizer._stream_of),
        }

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.detokenizer.run())
            group.create_task(self.fleet.run())

    async def _stop(self) -> None:
        self.running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.running


def request(
    *stop: str, max_tokens: int = 20, include_stop: bool = False, model: Model = MODEL
) -> GenerationRequest:
    return GenerationRequest(
        model,
        (1, 2, 3),
        Sampling(max_tokens, temperature=0.5, seed=7, stop_token_ids=(9,)),
        stop,
        include_stop,
        tenant="acme",
        priority=2,
    )


@pytest.fixture
async def stage(nats_url: str, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Stage]:
    """A running stage; afterwards nothing is left of any sequence and no handler has failed."""
    async with AsyncExitStack() as stack:
        tokenizer = await stack.enter_async_context(LetterTokenizer().running())
        made = Stage(stack, nats_url, tokenizer)
        await made.open()
        yield made
        for reading in made.readings:
            await reading.done()
        await until(lambda: not any(made.left().values()))
        made.dispatcher.check()
        assert not made.running.done(), made.running
        assert not [r for r in caplog.records if "handler" in r.getMessage()]


async def test_text_streams_to_its_end(stage: Stage) -> None:
    """Tokens come back as text in order; the last piece has the reason, usage and timings."""
    replica = await stage.replica("r1")
    reading = stage.read()
    job = await replica.job()
    for piece in ("abc", "de", "f"):
        await replica.say(job.job_id, piece)
    await until(lambda: reading.text == "abcdef")
    await replica.say(job.job_id, "g", LENGTH)
    await reading.done()
    assert reading.error is None
    assert reading.text == "abcdefg"
    assert reading.last.finish_reason == "length"
    assert reading.last.num_tokens == 7
    assert reading.last.usage is not None
    assert (reading.last.usage.prompt_tokens, reading.last.usage.completion_tokens) == (3, 7)
    assert reading.last.timings is not None
    assert reading.last.timings.decode_s == 2
    assert replica.cancelled == []


async def test_a_replica_tells_how_its_model_wants_to_be_sampled(stage: Stage) -> None:
    """The announced wishes are the model's defaults; a replica of an older version has none."""
    replica = await stage.replica("r1")
    assert [model.defaults for model in stage.fleet.models()] == [Defaults()]
    wishes = common_pb2.SamplingParams(
        temperature=0.5, top_k=7, top_p=0.25, repetition_penalty=1.5, max_tokens=9
    )
    replica.model.default_sampling.CopyFrom(wishes)
    expected = Defaults(9, temperature=0.5, top_k=7, top_p=0.25, repetition_penalty=1.5)
    await until(lambda: [model.defaults for model in stage.fleet.models()] == [expected])


async def test_a_job_carries_the_whole_request(stage: Stage) -> None:
    """The replica sees prompt, sampling, revision, tenant and priority; id and deadline travel."""
    replica = await stage.replica("r1")
    reading = stage.read(timeout_s=20)
    job = await replica.job()
    assert list(job.prompt_token_ids) == [1, 2, 3]
    assert job.sampling.max_tokens == 20
    assert job.sampling.temperature == 0.5
    assert job.sampling.seed == 7
    assert list(job.sampling.stop_token_ids) == [9]
    assert (job.model_revision, job.tenant, job.priority) == ("r1", "acme", 2)
    assert job.cache_salt == "acme", "prefixes never cross tenants"
    assert abs(job.deadline_unix_ms / 1000 - time.time() - 20) < 2
    assert replica.headers[0]["x-request-id"] == "req-1"
    await replica.say(job.job_id, "", STOP)
    assert (await reading.done()).last.finish_reason == "stop"


async def test_all_results_of_a_beam_search_become_text(stage: Stage) -> None:
    """One job and one delta give several sequences, of which the first has the usage."""
    replica = await stage.replica("r1")
    sampling = Sampling(20, temperature=0, n=3, beam_width=4, length_penalty=0.5)
    asked = GenerationRequest(MODEL, (1, 2, 3), sampling, stop=("x",))
    reading = Reading(stage.fleet.stream(asked, RequestContext.start(20)))
    job = await replica.job()
    wanted = job.sampling
    assert (wanted.n, wanted.beam_width, wanted.length_penalty) == (3, 4, 0.5)
    replica.job_ids.remove(job.job_id)
    beams = [
        common_pb2.Beam(token_ids=ids("bcd"), finish_reason=LENGTH),
        common_pb2.Beam(token_ids=ids("exf"), finish_reason=LENGTH),
    ]
    usage = common_pb2.Usage(prompt_tokens=3, completion_tokens=9)
    delta = events_pb2.SequenceDelta(
        job_id=job.job_id, token_ids=ids("ab"), finish_reason=STOP, usage=usage, other_beams=beams
    )
    await replica.send([delta])
    await reading.done()
    assert reading.error is None
    texts = {i: "".join(d.text for d in reading.deltas if d.sequence == i) for i in range(3)}
    assert texts == {0: "ab", 1: "bcd", 2: "e"}
    ends = {d.sequence: d for d in reading.deltas if d.finish_reason is not None}
    assert {i: end.finish_reason for i, end in ends.items()} == {0: "stop", 1: "length", 2: "stop"}
    used = [ends[i].usage for i in range(3)]
    assert [u.completion_tokens for u in used if u is not None] == [9, 0, 0]


async def test_an_unset_seed_stays_unset(stage: Stage) -> None:
    """Absent is not zero: the engine draws a seed of its own."""
    replica = await stage.replica("r1")
    plain = GenerationRequest(MODEL, (1,), Sampling(4))
    reading = Reading(stage.fleet.stream(plain, RequestContext.start(5)))
    job = await replica.job()
    assert not job.sampling.HasField("seed")
    await replica.say(job.job_id, "", STOP)
    await reading.done()


async def test_no_replica_is_unavailable(stage: Stage) -> None:
    """Without a replica of the model a request fails at once."""
    await stage.replica("r1", revision="r2")
    error = (await stage.read().done()).error
    assert error is not None
    assert error.code is Code.UNAVAILABLE
    assert [m.revision for m in stage.fleet.models()] == ["r2"]


async def test_ready_with_the_first_replica(stage: Stage) -> None:
    """The ping fails until a replica has announced itself."""
    with pytest.raises(MeshError):
        await stage.fleet.ping()
    await stage.replica("r1")
    await stage.fleet.ping()


async def test_two_replicas_share_the_load(stage: Stage) -> None:
    """Jobs alternate between replicas that are equally loaded, and all are answered."""
    replicas = [await stage.replica("r1"), await stage.replica("r2")]
    readings = [stage.read() for _ in range(8)]
    await until(lambda: sum(len(r.jobs) for r in replicas) == 8)
    assert [len(r.jobs) for r in replicas] == [4, 4]
    for replica in replicas:
        for job in list(replica.jobs):
            await replica.say(job.job_id, "ok", STOP)
    for reading in readings:
        assert (await reading.done()).text == "ok"


async def test_one_frame_carries_many_sequences(stage: Stage) -> None:
    """The deltas of one engine step reach their own readers."""
    replica = await stage.replica("r1")
    readings = [stage.read() for _ in range(4)]
    await replica.job(3)
    for step in range(5):
        await replica.send(
            events_pb2.SequenceDelta(job_id=job.job_id, token_ids=[n * 5 + step])
            for n, job in enumerate(replica.jobs)
        )
    for job in replica.jobs:
        await replica.say(job.job_id, "", STOP)
    for reading in readings:
        await reading.done()
    assert {r.text for r in readings} == {LETTERS[n * 5 : n * 5 + 5] for n in range(4)}


async def test_a_lost_frame_is_asked_for_again(stage: Stage) -> None:
    """A gap is seen with the next frame and repaired; the reader notices nothing."""
    replica = await stage.replica("r1")
    reading = stage.read()
    job = await replica.job()
    await replica.say(job.job_id, "ab")
    await replica.say(job.job_id, "cd", lose=True)
    await replica.say(job.job_id, "ef")
    await until(lambda: reading.text == "abcdef")
    assert replica.resends == [(2, 2)]
    await replica.say(job.job_id, "", STOP)
    await reading.done()


async def test_the_loss_of_the_last_frame_is_seen(stage: Stage) -> None:
    """A heartbeat reveals that the end was lost; asking goes on until it is there."""
    replica = await stage.replica("r1")
    replica.answers_resends = False
    reading = stage.read()
    job = await replica.job()
    await replica.say(job.job_id, "ab", STOP, lose=True)
    await replica.beat()
    await until(lambda: replica.resends == [(1, 1)])
    replica.answers_resends = True
    await replica.beat()
    assert (await reading.done()).text == "ab"


async def test_frames_gone_for_good_fail_their_readers(stage: Stage) -> None:
    """A hole that cannot be filled ends the replica's sequences, and those only."""
    broken, whole = await stage.replica("r1"), await stage.replica("r2")
    readings = [stage.read() for _ in range(2)]
    first, second = await broken.job(), await whole.job()
    await broken.say(first.job_id, "ab")
    await until(lambda: any(r.text == "ab" for r in readings))
    await broken.say(first.job_id, "cd", lose=True)
    broken.oldest = 3
    await broken.say(first.job_id, "ef")
    await until(lambda: any(r.error for r in readings))
    await until(lambda: broken.cancelled == [first.job_id])
    await whole.say(second.job_id, "xy", STOP)
    for reading in readings:
        await reading.done()
    by_text = {r.text: r for r in readings}
    assert by_text.keys() == {"ab", "xy"}
    error = by_text["ab"].error
    assert error is not None
    assert error.code is Code.UNAVAILABLE


async def test_sequences_after_a_hole_are_whole(stage: Stage) -> None:
    """A replica that broke once serves the next job."""
    replica = await stage.replica("r1")
    reading = stage.read()
    job = await replica.job()
    await replica.say(job.job_id, "a", lose=True)
    replica.oldest = 2
    await replica.beat()
    assert (await reading.done()).error is not None
    again = stage.read()
    job = await replica.job(1)
    await replica.say(job.job_id, "fine", STOP)
    assert (await again.done()).text == "fine"


async def test_a_reader_that_leaves_cancels_the_job(stage: Stage) -> None:
    """Closing the iterator early tells the replica."""
    replica = await stage.replica("r1")
    deltas = stage.fleet.stream(request(), RequestContext.start(20))
    first = asyncio.create_task(anext(deltas))
    job = await replica.job()
    await replica.say(job.job_id, "ab")
    assert (await first).text == "ab"
    await deltas.aclose()  # type: ignore[attr-defined]
    assert not any(stage.left().values())
    await until(lambda: replica.cancelled == [job.job_id])
    assert replica.stopped == []


async def test_a_cancelled_reader_cancels_the_job(stage: Stage) -> None:
    """Cancelling the reading task, as a server does when its client leaves, has the same effect."""
    replica = await stage.replica("r1")
    reading = stage.read()
    job = await replica.job()
    reading.task.cancel()
    await asyncio.gather(reading.task, return_exceptions=True)
    stage.readings.clear()
    await until(lambda: replica.cancelled == [job.job_id])


async def test_a_reader_that_leaves_the_queue_is_forgotten(stage: Stage) -> None:
    """A job that still waits is withdrawn without a word to any replica."""
    replica = await stage.replica("r1", room=0)
    reading = stage.read()
    await until(lambda: stage.dispatcher.num_waiting() == 1)
    reading.task.cancel()
    await until(lambda: not any(stage.left().values()))
    stage.readings.clear()
    assert replica.jobs == replica.cancelled == []


async def test_a_rejected_job_goes_to_the_other_replica(stage: Stage) -> None:
    """A replica without room after all sends the job back, and another one runs it."""
    first, second = await stage.replica("r1"), await stage.replica("r2")
    reading = stage.read()
    await until(lambda: first.jobs or second.jobs)
    taker, other = (first, second) if first.jobs else (second, first)
    taker.room = 0
    taker.job_ids.clear()
    await taker.say(taker.jobs[0].job_id, "", REJECTED)
    job = await other.job()
    await other.say(job.job_id, "hi", STOP)
    assert (await reading.done()).text == "hi"


async def test_a_job_without_room_waits(stage: Stage) -> None:
    """What finds no room waits and goes when a replica has some."""
    replica = await stage.replica("r1", room=1)
    readings = [stage.read() for _ in range(2)]
    job = await replica.job()
    await replica.say(job.job_id, "a", STOP)
    job = await replica.job(1)
    await replica.say(job.job_id, "b", STOP)
    assert sorted([(await r.done()).text for r in readings]) == ["a", "b"]


async def test_a_full_queue_refuses(stage: Stage) -> None:
    """Beyond the queue's bound a request is refused with a time to retry."""
    await stage.replica("r1", room=0)
    readings = [stage.read(timeout_s=0.5) for _ in range(9)]
    for reading in readings:
        await reading.done()
    errors = [r.error for r in readings if r.error is not None]
    assert [e.code for e in errors].count(Code.RESOURCE_EXHAUSTED) == 1
    assert [e.code for e in errors].count(Code.DEADLINE_EXCEEDED) == 8
    assert {e.retry_after_s for e in errors if e.code is Code.RESOURCE_EXHAUSTED} == {1.0}


async def test_a_holder_of_places_is_not_refused(stage: Stage) -> None:
    """With the queue full, sequences that were reserved wait for their replica."""
    replica = await stage.replica("r1", room=0)
    held = stage.dispatcher.reserve(MODEL, [30, 30])
    others = [stage.read() for _ in range(7)]
    await until(lambda: any(reading.error for reading in others))
    context = RequestContext.start(20)
    readings = [Reading(stage.fleet.stream(request(), context, held)) for _ in range(2)]
    await until(lambda: stage.dispatcher.num_waiting() == 8)
    stage.dispatcher.release(held)
    replica.room = 8
    for number in range(8):
        await replica.say((await replica.job(number)).job_id, "a", STOP)
    assert [(await reading.done()).text for reading in readings] == ["a", "a"]


async def test_a_full_queue_tells_the_wait_that_replicas_announce(stage: Stage) -> None:
    """The refusal's time to retry is what the replica expects from its own queue."""
    replica = await stage.replica("r1", room=0)
    replica.expected_wait_s = 6.5
    stage.dispatcher._waiting._max_jobs = 0
    await replica.announce()
    await until(lambda: stage.dispatcher.queue_full(MODEL).retry_after_s == 6.5)
    error = (await stage.read().done()).error
    assert error is not None
    assert (error.code, error.retry_after_s) == (Code.RESOURCE_EXHAUSTED, 6.5)


async def test_a_job_that_all_reject_is_refused_with_their_wait(stage: Stage) -> None:
    """With no place in the queue either, its reader hears when to come back."""
    replica = await stage.replica("r1", room=1)
    stage.dispatcher._waiting._max_jobs = 0
    reading = stage.read()
    job = await replica.job()
    replica.room = 0
    await replica.say(job.job_id, "", REJECTED, expected_wait_s=4.5)
    error = (await reading.done()).error
    assert error is not None
    assert (error.code, error.retry_after_s) == (Code.RESOURCE_EXHAUSTED, 4.5)


async def test_a_silent_replica_loses_its_jobs(stage: Stage) -> None:
    """Jobs without output are placed anew, the reader of a begun one is told."""
    silent = await stage.replica("r1")
    fresh, begun = stage.read(), stage.read()
    await silent.job(1)
    by_id = {r: j.job_id for r, j in zip((fresh, begun), silent.jobs, strict=True)}
    await silent.say(by_id[begun], "ab")
    await until(lambda: begun.text == "ab")
    other = await stage.replica("r2")
    silent.alive = False
    job = await other.job()
    assert job.job_id == by_id[fresh]
    await other.say(job.job_id, "new", STOP)
    assert (await fresh.done()).text == "new"
    error = (await begun.done()).error
    assert error is not None
    assert error.code is Code.UNAVAILABLE
    assert error.retry_after_s is not None


async def test_a_replica_that_comes_back_speaks_for_none_of_its_old_jobs(stage: Stage) -> None:
    """Frames of the replica that lost a job cannot mix with those of the one that runs it now."""
    old = await stage.replica("r1")
    reading = stage.read()
    job = await old.job()
    new = await stage.replica("r2")
    old.alive = False
    assert (await new.job()).job_id == job.job_id
    await new.say(job.job_id, "abc")
    await until(lambda: reading.text == "abc")
    old.alive = True
    await old.say(job.job_id, "xyz")
    await old.say(job.job_id, "", STOP)
    await until(lambda: "r1" in stage.dispatcher.replica_ids())
    await new.say(job.job_id, "def", STOP)
    assert (await reading.done()).text == "abcdef"


async def test_a_replica_that_nobody_hears_is_gone_at_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed replica is known from the server's word, long before its silence is."""
    monkeypatch.setattr(dispatcher, "SILENCE_LIMIT_S", 60.0)
    bus = await Bus.connect(stage.nats_url, "r1")
    killed = ScriptedReplica(bus, "r1")
    async with killed.running():
        await until(lambda: "r1" in stage.dispatcher.replica_ids())
        reading = stage.read()
        job = await killed.job()
    await bus.close()
    other = await stage.replica("r2")
    assert (await other.job()).job_id == job.job_id
    await until(lambda: stage.dispatcher.replica_ids() == ["r2"])
    await other.say(job.job_id, "ok", STOP)
    assert (await reading.done()).text == "ok"


async def test_a_replica_that_is_seen_again_may_count_from_one(stage: Stage) -> None:
    """A replica that forgot this gateway starts its frames anew, and they are read."""
    replica = await stage.replica("r1")
    reading = stage.read()
    job = await replica.job()
    for letter in "abc":
        await replica.say(job.job_id, letter)
    await replica.say(job.job_id, "d", STOP)
    assert (await reading.done()).text == "abcd"
    replica.frames.clear()
    reading = stage.read()
    job = await replica.job(1)
    await replica.say(job.job_id, "new", STOP)
    await replica.beat()
    assert (await reading.done()).text == "new"


async def test_a_dead_tokenizer_is_not_noticed(stage: Stage) -> None:
    """The tokenizer restarts in the middle: the reader sees each character exactly once."""
    replica = await stage.replica("r1")
    reading = stage.read()
    job = await replica.job()
    await replica.say(job.job_id, "abc")
    await until(lambda: reading.text == "abc")
    await stage.tokenizer.kill()
    await replica.say(job.job_id, "def")
    await stage.tokenizer.start()
    await replica.say(job.job_id, "ghi", STOP)
    assert (await reading.done()).text == "abcdefghi"


def scored(job: events_pb2.Job, text: str, *, first: bool = False) -> events_pb2.SequenceDelta:
    """New tokens, each with itself as its only alternative; the first ones score the prompt."""

    def told(token_ids: list[int]) -> list[common_pb2.TokenLogprobs]:
        return [
            common_pb2.TokenLogprobs(
                token_id=i, logprob=-i, rank=1, top_token_ids=[i], top_logprobs=[-i]
            )
            for i in token_ids
        ]

    return events_pb2.SequenceDelta(
        job_id=job.job_id,
        token_ids=ids(text),
        logprobs=told(ids(text)),
        prompt_logprobs=told([2, 3]) if first else [],
    )


@pytest.mark.parametrize("restart", [False, True])
async def test_log_probabilities_come_with_their_text(stage: Stage, restart: bool) -> None:
    """Each delta describes exactly its own tokens, even where the tokenizer restarts between."""
    replica = await stage.replica("r1")
    reading = stage.read(logprobs=1)
    job = await replica.job()
    await replica.send([scored(job, "abc", first=True)])
    await until(lambda: reading.text == "abc")
    if restart:
        await stage.tokenizer.kill()
    await replica.send([scored(job, "de")])
    if restart:
        await stage.tokenizer.start()
    await replica.send([scored(job, "f")])
    await replica.say(job.job_id, "", STOP)
    await reading.done()
    for delta in reading.deltas:
        assert [one.token_id for one in delta.logprobs] == ids(delta.text)
        assert all(one.top == ((one.token_id, one.logprob),) for one in delta.logprobs)
        assert "".join(one.piece.data.decode() for one in delta.logprobs) == delta.text
    offsets = [one.piece.offset for delta in reading.deltas for one in delta.logprobs]
    assert offsets == list(range(6))
    assert reading.text == "abcdef"
    assert [one.token_id for one in reading.deltas[0].prompt_logprobs] == [2, 3]
    assert not any(delta.prompt_logprobs for delta in reading.deltas[1:])


async def test_log_probabilities_wait_for_their_text(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where text comes in smaller portions than tokens, each portion has only its own."""
    monkeypatch.setattr(detokenizer, "MAX_DELTA_TOKENS", 1)
    replica = await stage.replica("r1")
    reading = stage.read("ex", logprobs=1)
    job = await replica.job()
    await replica.send([scored(job, "abcdef", first=True)])
    await replica.say(job.job_id, "", STOP)
    await reading.done()
    told = [[one.token_id for one in delta.logprobs] for delta in reading.deltas if delta.text]
    # "e" might have begun the stop string and so came with "f"
    assert told == [ids("a"), ids("b"), ids("c"), ids("d"), ids("ef")]


async def test_a_stop_string_ends_the_job(stage: Stage) -> None:
    """The reader gets "stop" with its usage, and the replica a cancel."""
    replica = await stage.replica("r1")
    reading = stage.read("de")
    job = await replica.job()
    for piece in ("abc", "d", "ef"):
        await replica.say(job.job_id, piece)
    await reading.done()
    assert reading.text == "abc"
    assert reading.last.finish_reason == "stop"
    assert reading.last.usage is not None
    assert reading.last.usage.prompt_tokens == 3
    assert reading.last.usage.completion_tokens >= 5
    await until(lambda: replica.cancelled == [job.job_id])
    assert replica.stopped == [job.job_id], "it was not given up"


def begun(job_id: str, text: str, *, cached: int = 2) -> events_pb2.SequenceDelta:
    """A job's first tokens, with what a replica tells then."""
    start = common_pb2.Start(cached_prompt_tokens=cached, queue_s=0.5, prefill_s=0.25)
    return events_pb2.SequenceDelta(job_id=job_id, token_ids=ids(text), start=start)


@pytest.mark.parametrize("pieces", [("abcdef",), ("abc", "d", "ef"), ("abcd", "ef")])
async def test_a_stop_string_keeps_what_was_known_at_the_start(
    stage: Stage, pieces: tuple[str, ...]
) -> None:
    """Cached tokens and times do not wait for the replica's end, which never comes."""
    replica = await stage.replica("r1")
    reading = stage.read("de")
    job = await replica.job()
    before_s = time.monotonic()
    await replica.send([begun(job.job_id, pieces[0])])
    for piece in pieces[1:]:
        await replica.say(job.job_id, piece)
    last = (await reading.done()).last
    assert last.usage == Usage(3, 5, cached_prompt_tokens=2)
    assert last.timings is not None
    assert (last.timings.queue_s, last.timings.prefill_s) == (0.5, 0.25)
    assert 0 <= last.timings.decode_s <= time.monotonic() - before_s


async def test_a_stop_string_in_the_last_tokens_keeps_what_the_end_told(stage: Stage) -> None:
    """A replica that ended before its text was searched has told the usage itself."""
    replica = await stage.replica("r1")
    reading = stage.read("de")
    job = await replica.job()
    usage = common_pb2.Usage(prompt_tokens=3, completion_tokens=6, cached_prompt_tokens=1)
    timings = common_pb2.Timings(queue_s=1, prefill_s=2, decode_s=4)
    replica.job_ids.remove(job.job_id)
    delta = events_pb2.SequenceDelta(
        job_id=job.job_id, token_ids=ids("abcdef"), finish_reason=LENGTH, usage=usage,
        timings=timings,
    )  # fmt: skip
    await replica.send([delta])
    last = (await reading.done()).last
    assert (last.finish_reason, last.usage) == ("stop", Usage(3, 5, cached_prompt_tokens=1))
    assert last.timings == Timings(1, 2, 4)


async def test_a_replica_that_tells_no_start_is_understood(stage: Stage) -> None:
    """An older one tells cached tokens and times at its end alone: they are not known before."""
    replica = await stage.replica("r1")
    reading = stage.read("de")
    job = await replica.job()
    await replica.say(job.job_id, "abcdef")
    last = (await reading.done()).last
    assert (last.usage, last.timings) == (Usage(3, 5), None)


async def test_a_stop_string_in_a_beam_keeps_the_usage_of_all(stage: Stage) -> None:
    """What a search generated is counted, however its results are cut."""
    replica = await stage.replica("r1")
    reading = stage.read("b", temperature=0, n=2, beam_width=2, stop_token_ids=())
    job = await replica.job()
    replica.job_ids.remove(job.job_id)
    delta = events_pb2.SequenceDelta(
        job_id=job.job_id, token_ids=ids("abc"), finish_reason=LENGTH,
        usage=common_pb2.Usage(prompt_tokens=3, completion_tokens=6, cached_prompt_tokens=2),
        other_beams=[common_pb2.Beam(token_ids=ids("cba"), finish_reason=LENGTH)],
    )  # fmt: skip
    await replica.send([delta])
    await reading.done()
    ends = {d.sequence: d for d in reading.deltas if d.finish_reason is not None}
    assert {index: (end.finish_reason, end.usage) for index, end in ends.items()} == {
        0: ("stop", Usage(3, 6, cached_prompt_tokens=2)),
        1: ("stop", Usage(0, 0)),
    }


@pytest.mark.parametrize(("min_tokens", "text"), [(0, "a"), (2, "aba"), (6, "ababab")])
async def test_min_tokens_holds_stop_strings_back(stage: Stage, min_tokens: int, text: str) -> None:
    """One that is complete too early stays in the text; the job carries min_tokens as well."""
    replica = await stage.replica("r1")
    reading = stage.read("b", min_tokens=min_tokens)
    job = await replica.job()
    assert job.sampling.min_tokens == min_tokens
    for letter in "ababab":
        await replica.say(job.job_id, letter)
    if min_tokens == 6:
        await replica.say(job.job_id, "b")
    await reading.done()
    assert (reading.text, reading.last.finish_reason) == (text, "stop")


@pytest.mark.parametrize("restart", [False, True])
async def test_an_answer_is_told_without_its_prefix(stage: Stage, restart: bool) -> None:
    """It is dropped across tokens, and again where the tokenizer restarts in the middle of it."""
    replica = await stage.replica("r1")
    reading = stage.read("ab", answer_prefix="ab", logprobs=1)
    job = await replica.job()
    await replica.send([scored(job, "a")])
    if restart:
        await until(lambda: not any(s._owed for s in stage.detokenizer._streams))
        await stage.tokenizer.kill()
    await replica.send([scored(job, "bcd")])
    if restart:
        await stage.tokenizer.start()
    await replica.send([scored(job, "eab")])
    await reading.done()
    assert (reading.text, reading.last.finish_reason) == ("cde", "stop")
    pieces = [one.piece for delta in reading.deltas for one in delta.logprobs]
    assert [piece.data for piece in pieces] == [b"", b"", b"c", b"d", b"e", b"", b""]
    assert [piece.offset for piece in pieces] == [0, 0, 0, 1, 2, 3, 3]


async def test_further_beams_are_cut_like_the_first(stage: Stage) -> None:
    """Prefix, stop strings and min_tokens hold for each result of a search."""
    replica = await stage.replica("r1")
    sampling = {"temperature": 0, "n": 2, "beam_width": 2, "stop_token_ids": (), "min_tokens": 3}
    reading = stage.read("b", answer_prefix="a", **sampling)
    job = await replica.job()
    replica.job_ids.remove(job.job_id)
    delta = events_pb2.SequenceDelta(
        job_id=job.job_id, token_ids=ids("abcbd"), finish_reason=LENGTH,
        usage=common_pb2.Usage(prompt_tokens=3, completion_tokens=10),
        other_beams=[common_pb2.Beam(token_ids=ids("xbxxb"), finish_reason=LENGTH)],
    )  # fmt: skip
    await replica.send([delta])
    await reading.done()
    texts = ["".join(d.text for d in reading.deltas if d.sequence == i) for i in range(2)]
    assert texts == ["bc", "xbxx"]


async def test_tokens_after_a_stop_string_harm_nobody(stage: Stage) -> None:
    """A slow reader keeps a stopped sequence for a while; other sequences of its frames go on."""
    replica = await stage.replica("r1")
    slow = stage.fleet.stream(request("b"), RequestContext.start(20))
    first = asyncio.create_task(anext(slow))
    stopped = await replica.job()
    other = stage.read()
    going = await replica.job(1)
    await replica.say(stopped.job_id, "a")
    assert (await first).text == "a"
    for letter in "bcd":
        await replica.send(
            events_pb2.SequenceDelta(job_id=j.job_id, token_ids=ids(letter))
            for j in (stopped, going)
        )
        await until(lambda seen=letter: other.text.endswith(seen))
    await replica.say(going.job_id, "", STOP)
    assert (await other.done()).text == "bcd"
    assert (await anext(slow)).finish_reason == "stop"
    await slow.aclose()  # type: ignore[attr-defined]


async def test_the_deadline_ends_a_sequence(stage: Stage) -> None:
    """A job that takes too long fails with DEADLINE_EXCEEDED and is cancelled."""
    replica = await stage.replica("r1")
    reading = stage.read(timeout_s=0.3)
    job = await replica.job()
    error = (await reading.done()).error
    assert error is not None
    assert error.code is Code.DEADLINE_EXCEEDED
    await until(lambda: replica.cancelled == [job.job_id])


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (common_pb2.FINISH_REASON_DEADLINE, Code.DEADLINE_EXCEEDED),
        (common_pb2.FINISH_REASON_ABORT, Code.UNAVAILABLE),
        (common_pb2.FINISH_REASON_ERROR, Code.INTERNAL),
    ],
)
async def test_a_failure_in_the_engine(
    stage: Stage, reason: "common_pb2.FinishReason", code: Code
) -> None:
    """Each fault of a sequence has its code; the text before it was delivered."""
    replica = await stage.replica("r1")
    reading = stage.read()
    job = await replica.job()
    await replica.say(job.job_id, "ab")
    await until(lambda: reading.text == "ab")
    await replica.say(job.job_id, "", reason)
    error = (await reading.done()).error
    assert error is not None
    assert error.code is code
    assert replica.cancelled == []


async def test_a_job_that_never_arrived_is_sent_anew(stage: Stage) -> None:
    """A replica that does not list a job gets it again."""
    replica = await stage.replica("r1")
    reading = stage.read()
    job = await replica.job()
    replica.job_ids.clear()
    assert (await replica.job(1)).job_id == job.job_id
    await replica.say(job.job_id, "ok", STOP)
    assert (await reading.done()).text == "ok"


async def test_a_gateway_shows_that_it_lives(stage: Stage) -> None:
    """Each replica hears from the gateway again and again, without any job."""
    replica = await stage.replica("r1")
    before = replica.beats
    await until(lambda: replica.beats >= before + 3)


async def test_a_newer_announcement_is_refused(stage: Stage) -> None:
    """A message of a version that this gateway does not know adds no replica."""
    replica = await stage.replica("r1")
    raw = events_pb2.Announcement(version=VERSION + 1, replica_id="future", model=replica.model)
    await replica._bus._client.publish(subjects.ANNOUNCE, raw.SerializeToString())
    await replica.announce()
    beats = replica.beats
    await until(lambda: replica.beats > beats)
    assert stage.dispatcher.replica_ids() == ["r1"]


@pytest.fixture(autouse=True)
def loud(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Handlers that fail are found in the log."""
    with caplog.at_level("ERROR"):
        yield
