"""The gateway's side of the bus: sends jobs to replicas and turns their frames into text.

`dispatch` decides where jobs go, `frames` puts frames in order, `detokenizer` makes text; this
file connects the three and owns every sequence from its submission to its one outcome.
"""

import asyncio
import logging
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from prometheus_client import Counter, Gauge

from mesh import bus as subjects
from mesh.bus import Bus
from mesh.context import RequestContext
from mesh.errors import Code, MeshError, unavailable
from mesh.pb import common_pb2, events_pb2
from mesh.telemetry import inject
from services.gateway.clients.retriever import sampling_message
from services.gateway.domain.generation import (
    Defaults,
    GenerationRequest,
    Model,
    TextDelta,
    Timings,
    TokenLogprobs,
    Usage,
)
from services.gateway.generation.detokenizer import Detokenizer, Text
from services.gateway.generation.dispatcher import Dispatcher, Job, Report, Work
from services.gateway.generation.frame_order import FrameLine

log = logging.getLogger(__name__)

TICK_S = 0.5
# after a restart of the bus a replica may subscribe a little later than we speak
UNDELIVERED_LIMIT_S = 0.8

_waiting = Gauge("infermesh_gateway_waiting_jobs", "Jobs in the gateway's queue")
_running = Gauge("infermesh_gateway_running_jobs", "Jobs on replicas")
_gaps = Counter("infermesh_gateway_frame_gaps_total", "Gaps in frames that were asked for again")
_sent = Counter("infermesh_gateway_jobs_sent_total", "Jobs sent, by replica", ["replica"])
_lost = Counter("infermesh_gateway_lost_jobs_total", "Jobs that ended with their replica")


@dataclass(slots=True, eq=False)
class _Sequence:
    """One sequence in flight: what its reader has not taken yet, and how it ended."""

    job: Job
    request: GenerationRequest
    headers: Mapping[str, str]
    deadline_unix_ms: int
    news: asyncio.Event = field(default_factory=asyncio.Event)
    texts: deque[TextDelta] = field(default_factory=deque)
    logprobs: deque[TokenLogprobs] = field(default_factory=deque)
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    num_told: int = 0
    fault: MeshError | None = None
    end: events_pb2.SequenceDelta | None = None
    num_beams: int = 1
    num_told_beams: int = 0

    def tell(self, num_tokens: int) -> tuple[TokenLogprobs, ...]:
        """Takes the log-probabilities of the answer's tokens up to there."""
        count = min(num_tokens - self.num_told, len(self.logprobs))
        self.num_told += count
        return tuple(self.logprobs.popleft() for _ in range(count))

    def fail(self, error: MeshError) -> None:
        self.fault = self.fault or error
        self.news.set()


class Fleet:
    """All generator replicas as one text generator (see `generation.TextGenerator`)."""

    def __init__(self, bus: Bus, dispatcher: Dispatcher, detokenizer: Detokenizer) -> None:
        self.gateway_id = uuid.uuid4().hex[:12]
        self._bus = bus
        self._dispatcher = dispatcher
        self._detokenizer = detokenizer
        self._sequences: dict[str, _Sequence] = {}
        self._lines: dict[str, FrameLine[events_pb2.Frame]] = {}
        self._undelivered: dict[str, float] = {}
        self._outgoing: asyncio.Queue[tuple[str, events_pb2.Command, Mapping[str, str]]] = (
            asyncio.Queue()  # bounded by the jobs in flight: a job, a cancel, and a resend a tick
        )

    async def start(self) -> None:
        """Subscribes and asks all replicas to announce themselves."""
        await self._bus.subscribe(
            subjects.frames(self.gateway_id), events_pb2.Frame, self._on_frame
        )
        await self._bus.subscribe(subjects.ANNOUNCE, events_pb2.Announcement, self._on_announcement)
        await self._bus.on_undelivered(
            subjects.undelivered(self.gateway_id, "*"), self._on_undelivered
        )
        await self._bus.publish(subjects.HELLO, events_pb2.Hello(gateway_id=self.gateway_id))

    async def run(self) -> None:
        """Sends commands and watches for silence until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send())
            group.create_task(self._tick())

    def models(self) -> list[Model]:
        """What the live replicas serve."""
        return self._dispatcher.models()

    async def ping(self) -> None:
        """Raises unless a replica is there."""
        if not self.models():
            raise unavailable("no generator replica")

    async def stream(
        self, request: GenerationRequest, context: RequestContext
    ) -> AsyncIterator[TextDelta]:
        """See `generation.TextGenerator.stream`."""
        sequence = self._submit(request, context)
        try:
            while True:
                async with asyncio.timeout(context.remaining()):
                    await sequence.news.wait()
                sequence.news.clear()
                while sequence.texts:
                    delta = sequence.texts.popleft()
                    yield delta
                    sequence.num_told_beams += delta.finish_reason is not None
                    if sequence.num_told_beams == sequence.num_beams:
                        return
                if sequence.fault is not None:
                    raise sequence.fault
        except TimeoutError:
            raise MeshError(Code.DEADLINE_EXCEEDED, "The request's deadline has passed.") from None
        finally:
            self._forget(sequence)

    def _submit(self, request: GenerationRequest, context: RequestContext) -> _Sequence:
        job = Job(
            id=uuid.uuid4().hex,
            model=request.model,
            num_prompt_tokens=len(request.prompt_token_ids),
            max_tokens=request.sampling.max_tokens * max(1, request.sampling.beam_width),
            arrived=time.monotonic(),
            tenant=request.tenant,
            priority=request.priority,
        )
        headers = context.headers()
        inject(headers)
        sequence = _Sequence(job, request, headers, context.deadline_unix_ms)
        work = self._dispatcher.submit(job)
        self._sequences[job.id] = sequence
        self._detokenizer.open(
            job.id, request.stop, request.include_stop, lambda text: _add_text(sequence, text)
        )
        self._do(work)
        return sequence

    def _forget(self, sequence: _Sequence) -> None:
        """Ends a sequence for whatever reason; its replica is told if it still works on it."""
        job_id = sequence.job.id
        self._sequences.pop(job_id, None)
        for index in range(sequence.num_beams):
            self._detokenizer.forget(_beam_id(job_id, index))
        replica_id = self._dispatcher.withdraw(job_id)
        if replica_id is not None and sequence.end is None:
            command = events_pb2.Command(cancel=events_pb2.Cancel(job_id=job_id))
            self._outgoing.put_nowait((replica_id, command, {}))
        self._do(self._dispatcher.ended(job_id))

    def _do(self, work: Work) -> None:
        for job in work.send:
            assert job.replica_id is not None, "placed nowhere. This is a bug."
            job.sent = time.monotonic()
            _sent.labels(job.replica_id).inc()
            sequence = self._sequences[job.id]
            command = events_pb2.Command(job=_job_message(sequence))
            self._outgoing.put_nowait((job.replica_id, command, sequence.headers))
        for job in work.lost:
            _lost.inc()
            log.warning("job %s was lost with replica %s", job.id, job.replica_id)
            if job.id in self._sequences:
                self._sequences[job.id].fail(unavailable("The generator was lost mid-answer."))
        for job in work.refused:
            if job.id in self._sequences:
                self._sequences[job.id].fail(self._dispatcher.queue_full(job.model))
        _waiting.set(self._dispatcher.num_waiting())
        _running.set(self._dispatcher.num_running())

    async def _send(self) -> None:
        while True:
            replica_id, command, headers = await self._outgoing.get()
            command.gateway_id = self.gateway_id
            try:
                await self._bus.publish(
                    subjects.commands(replica_id),
                    command,
                    headers=headers,
                    undelivered=subjects.undelivered(self.gateway_id, replica_id),
                )
            except MeshError:
                # the job will be missed in the replica's next reports and placed anew
                log.warning("the bus did not take a command for replica %s", replica_id)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._do(self._dispatcher.expire(time.monotonic()))
            alive = self._dispatcher.replica_ids()
            for replica_id in alive:
                self._outgoing.put_nowait((replica_id, events_pb2.Command(), {}))
            for replica_id in self._lines.keys() - alive:
                del self._lines[replica_id]

    def _on_announcement(
        self, message: events_pb2.Announcement, headers: Mapping[str, str]
    ) -> None:
        self._undelivered.pop(message.replica_id, None)
        self._do(self._dispatcher.report(_report(message), time.monotonic()))

    def _on_undelivered(self, replica_id: str) -> None:
        now = time.monotonic()
        if now - self._undelivered.setdefault(replica_id, now) > UNDELIVERED_LIMIT_S:
            del self._undelivered[replica_id]
            self._do(self._dispatcher.gone(replica_id))

    def _on_frame(self, frame: events_pb2.Frame, headers: Mapping[str, str]) -> None:
        line = self._lines.setdefault(frame.replica_id, FrameLine())
        if frame.deltas:
            arrival = line.accept(frame.number, frame, frame.oldest)
        else:
            arrival = line.heartbeat(frame.number, frame.oldest)
        for ready in arrival.ready:
            for delta in ready.deltas:
                self._on_delta(delta, frame.replica_id)
        if arrival.missing is not None:
            _gaps.inc()
            first, last = arrival.missing
            command = events_pb2.Command(resend=events_pb2.Resend(first=first, last=last))
            self._outgoing.put_nowait((frame.replica_id, command, {}))
        if arrival.broken:
            self._break_all(frame.replica_id)

    def _break_all(self, replica_id: str) -> None:
        log.error("frames of replica %s are gone for good", replica_id)
        for sequence in self._sequences.values():
            if sequence.job.replica_id == replica_id:
                sequence.fail(unavailable("A part of the answer was lost."))

    def _on_delta(self, delta: events_pb2.SequenceDelta, replica_id: str) -> None:
        sequence = self._sequences.get(delta.job_id)
        if sequence is None or sequence.end is not None:
            return
        if sequence.job.replica_id != replica_id:
            # counted as lost, placed elsewhere since, and back again
            return
        reason = delta.finish_reason
        if reason == common_pb2.FINISH_REASON_REJECTED:
            told = delta.HasField("expected_wait_s")
            wait_s = delta.expected_wait_s if told else None
            self._do(self._dispatcher.rejected(delta.job_id, wait_s))
            return
        if delta.token_ids:
            self._dispatcher.progressed(delta.job_id)
        sequence.logprobs.extend(map(_token_logprobs, delta.logprobs))
        if delta.prompt_logprobs:
            sequence.prompt_logprobs = tuple(map(_token_logprobs, delta.prompt_logprobs))
        if reason == common_pb2.FINISH_REASON_UNSPECIFIED:
            self._detokenizer.feed(delta.job_id, delta.token_ids, final=False)
            return
        sequence.end = delta
        self._do(self._dispatcher.ended(delta.job_id))
        if reason in _FINISH:
            self._detokenizer.feed(delta.job_id, delta.token_ids, final=True)
            self._tell_other_beams(sequence, delta)
        else:
            sequence.fail(_failure(reason))

    def _tell_other_beams(self, sequence: _Sequence, delta: events_pb2.SequenceDelta) -> None:
        request = sequence.request
        sequence.num_beams += len(delta.other_beams)
        for index, beam in enumerate(delta.other_beams, 1):
            beam_id = _beam_id(delta.job_id, index)
            sink = partial(_add_beam_text, sequence, index, _FINISH[beam.finish_reason])
            self._detokenizer.open(beam_id, request.stop, request.include_stop, sink)
            self._detokenizer.feed(beam_id, beam.token_ids, final=True)


_FINISH = {
    common_pb2.FINISH_REASON_STOP: "stop",
    common_pb2.FINISH_REASON_LENGTH: "length",
}


def _failure(reason: common_pb2.FinishReason) -> MeshError:
    if reason == common_pb2.FINISH_REASON_DEADLINE:
        return MeshError(Code.DEADLINE_EXCEEDED, "The request's deadline has passed.")
    if reason == common_pb2.FINISH_REASON_ABORT:
        return unavailable("The generator stopped before the answer was complete.")
    return MeshError(Code.INTERNAL, "The generator failed on this request.")


def _add_text(sequence: _Sequence, text: Text) -> None:
    """Text came back from the tokenizer; the last of it closes the sequence."""
    end = sequence.end
    delta = TextDelta(
        text.text,
        text.num_tokens,
        logprobs=sequence.tell(text.num_tokens),
        prompt_logprobs=sequence.prompt_logprobs,
    )
    sequence.prompt_logprobs = ()
    if text.final and (text.stopped or end is None):
        usage = Usage(sequence.job.num_prompt_tokens, text.num_tokens)
        delta = replace(delta, finish_reason="stop", usage=usage)
    elif text.final and end is not None:
        usage = Usage(
            end.usage.prompt_tokens, end.usage.completion_tokens, end.usage.cached_prompt_tokens
        )
        timings = Timings(end.timings.queue_s, end.timings.prefill_s, end.timings.decode_s)
        reason = _FINISH[end.finish_reason]
        delta = replace(delta, finish_reason=reason, usage=usage, timings=timings)
    sequence.texts.append(delta)
    sequence.news.set()


def _beam_id(job_id: str, index: int) -> str:
    """What the detokenizer knows a job's results by; the first has the job's own id."""
    return job_id if index == 0 else f"{job_id}/{index}"


def _add_beam_text(sequence: _Sequence, index: int, reason: str, text: Text) -> None:
    """Text of a further result of a beam search; its tokens are in the first one's usage."""
    delta = TextDelta(text.text, text.num_tokens, sequence=index)
    if text.final:
        reason = "stop" if text.stopped else reason
        delta = replace(delta, finish_reason=reason, usage=Usage(0, 0))
    sequence.texts.append(delta)
    sequence.news.set()


def _token_logprobs(told: common_pb2.TokenLogprobs) -> TokenLogprobs:
    top = tuple(zip(told.top_token_ids, told.top_logprobs, strict=True))
    return TokenLogprobs(told.token_id, told.logprob, told.rank, top)


def _report(message: events_pb2.Announcement) -> Report:
    model = message.model
    return Report(
        replica_id=message.replica_id,
        model=Model(
            model.id,
            model.revision,
            model.context_length,
            model.vocab_size,
            tuple(model.eos_token_ids),
            _defaults(model),
        ),
        room_sequences=message.room_sequences,
        room_tokens=message.room_tokens,
        load=message.running + message.waiting,
        draining=message.draining,
        job_ids=frozenset(message.job_ids),
        expected_wait_s=message.expected_wait_s,
    )


def _defaults(model: common_pb2.ModelInfo) -> Defaults:
    if not model.HasField("default_sampling"):
        return Defaults()
    told = model.default_sampling
    return Defaults(
        max_tokens=told.max_tokens or None,
        temperature=told.temperature,
        top_k=told.top_k,
        top_p=told.top_p,
        min_p=told.min_p,
        repetition_penalty=told.repetition_penalty,
    )


def _job_message(sequence: _Sequence) -> events_pb2.Job:
    request = sequence.request
    return events_pb2.Job(
        job_id=sequence.job.id,
        prompt_token_ids=request.prompt_token_ids,
        sampling=sampling_message(request.sampling),
        deadline_unix_ms=sequence.deadline_unix_ms,
        model_revision=request.model.revision,
        tenant=request.tenant,
        cache_salt=request.tenant,
        priority=request.priority,
    )
