"""The gateway's side of the bus: sends jobs to replicas and turns their frames into text.

`dispatcher` decides where jobs go, `frame_order` puts frames in order, `detokenizer` makes text;
`wire` translates messages. This file connects them and owns every sequence in flight.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from functools import partial

from prometheus_client import Counter, Gauge

from mesh.bus import Bus, subjects
from mesh.context import RequestContext
from mesh.errors import MeshError, unavailable
from mesh.pb import events_pb2
from mesh.telemetry import inject
from services.gateway.domain.generation import GenerationRequest, Model, Reservation, TextDelta
from services.gateway.generation import wire
from services.gateway.generation.detokenized import TextOptions
from services.gateway.generation.detokenizer import Detokenizer
from services.gateway.generation.dispatcher import Dispatcher
from services.gateway.generation.frame_order import FrameOrder
from services.gateway.generation.job import Job, Work
from services.gateway.generation.sequence import SequenceInFlight, beam_id
from services.gateway.generation.wire import End

logger = logging.getLogger(__name__)

TICK_S = 0.5
# after a restart of the bus a replica may subscribe a little later than we speak
UNDELIVERED_LIMIT_S = 0.8

_waiting = Gauge("infermesh_gateway_waiting_jobs", "Jobs in the gateway's queue")
_permits = Gauge("infermesh_gateway_permits", "Requests that were admitted and hold a permit")
_running = Gauge("infermesh_gateway_running_jobs", "Jobs on replicas")
_gaps = Counter("infermesh_gateway_frame_gaps_total", "Gaps in frames that were asked for again")
_sent = Counter("infermesh_gateway_jobs_sent_total", "Jobs sent, by replica", ["replica"])
_lost = Counter("infermesh_gateway_lost_jobs_total", "Jobs that ended with their replica")


class Fleet:
    """All generator replicas as one text generator (see `ports.TextGenerator`)."""

    def __init__(self, bus: Bus, dispatcher: Dispatcher, detokenizer: Detokenizer) -> None:
        self.gateway_id = uuid.uuid4().hex[:12]
        self._bus = bus
        self._dispatcher = dispatcher
        self._detokenizer = detokenizer
        self._sequences: dict[str, SequenceInFlight] = {}
        self._frame_orders: dict[str, FrameOrder[events_pb2.Frame]] = {}
        self._undelivered: dict[str, float] = {}
        self._outgoing: asyncio.Queue[tuple[str, events_pb2.Command, Mapping[str, str]]] = (
            asyncio.Queue()  # bounded by the jobs in flight: a job, a cancel, and a resend a tick
        )

    async def start(self) -> None:
        """Subscribe and ask all replicas to announce themselves."""
        _permits.set_function(self._dispatcher.num_permits)
        await self._bus.subscribe(
            subjects.frames(self.gateway_id), events_pb2.Frame, self._on_frame
        )
        await self._bus.subscribe(subjects.ANNOUNCE, events_pb2.Announcement, self._on_announcement)
        await self._bus.on_undelivered(
            subjects.undelivered(self.gateway_id, "*"), self._on_undelivered
        )
        await self._bus.publish(subjects.HELLO, events_pb2.Hello(gateway_id=self.gateway_id))

    async def run(self) -> None:
        """Send commands and watch for silence until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send())
            group.create_task(self._tick())

    def models(self) -> list[Model]:
        """Return what the live replicas serve."""
        return self._dispatcher.models()

    async def ping(self) -> None:
        """Raise unless a replica is there."""
        if not self.models():
            raise unavailable("no generator replica")

    async def stream(
        self,
        request: GenerationRequest,
        context: RequestContext,
        reservation: Reservation | None = None,
    ) -> AsyncIterator[TextDelta]:
        """See `ports.TextGenerator.stream`."""
        sequence = self._submit(request, context, reservation)
        num_finished = 0
        try:
            while num_finished < sequence.num_beams:
                async with context.limit():
                    deltas = await sequence.texts.take_all()
                for delta in deltas:
                    yield delta
                    num_finished += delta.finish_reason is not None
        finally:
            self._forget(sequence)

    def _submit(
        self, request: GenerationRequest, context: RequestContext, reservation: Reservation | None
    ) -> SequenceInFlight:
        job = Job(
            id=uuid.uuid4().hex,
            model=request.model,
            num_prompt_tokens=len(request.prompt_token_ids),
            max_tokens=request.max_new_tokens,
            arrived=time.monotonic(),
            tenant=request.tenant,
            priority=request.priority,
        )
        headers = context.headers()
        inject(headers)
        sequence = SequenceInFlight(job, request, headers, context.deadline_unix_ms)
        work = self._dispatcher.submit(job, reservation)
        self._sequences[job.id] = sequence
        self._detokenizer.open(job.id, TextOptions.of(request), sequence.add_text)
        self._do(work)
        return sequence

    def _forget(self, sequence: SequenceInFlight) -> None:
        """End a sequence for whatever reason; tell its replica if it still works on it."""
        job_id = sequence.job.id
        self._sequences.pop(job_id, None)
        for text_id in sequence.text_ids():
            self._detokenizer.forget(text_id)
        replica_id = self._dispatcher.withdraw(job_id)
        if replica_id is not None and sequence.end is None:
            command = wire.cancel_command(job_id, stopped=sequence.is_stopped)
            self._outgoing.put_nowait((replica_id, command, {}))
        self._do(self._dispatcher.ended(job_id))

    def _do(self, work: Work) -> None:
        for job in work.send:
            assert job.replica_id is not None, "placed nowhere. This is a bug."
            job.sent = time.monotonic()
            _sent.labels(job.replica_id).inc()
            sequence = self._sequences[job.id]
            command = wire.job_command(job.id, sequence.request, sequence.deadline_unix_ms)
            self._outgoing.put_nowait((job.replica_id, command, sequence.headers))
        for job in work.lost:
            _lost.inc()
            logger.warning("job %s was lost with replica %s", job.id, job.replica_id)
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
                logger.warning("the bus did not take a command for replica %s", replica_id)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._do(self._dispatcher.expire(time.monotonic()))
            alive = self._dispatcher.replica_ids()
            for replica_id in alive:
                self._outgoing.put_nowait((replica_id, events_pb2.Command(), {}))
            for replica_id in self._frame_orders.keys() - alive:
                del self._frame_orders[replica_id]

    def _on_announcement(
        self, message: events_pb2.Announcement, headers: Mapping[str, str]
    ) -> None:
        self._undelivered.pop(message.replica_id, None)
        self._do(self._dispatcher.report(wire.report(message), time.monotonic()))

    def _on_undelivered(self, replica_id: str) -> None:
        now = time.monotonic()
        if now - self._undelivered.setdefault(replica_id, now) > UNDELIVERED_LIMIT_S:
            del self._undelivered[replica_id]
            self._do(self._dispatcher.gone(replica_id))

    def _on_frame(self, frame: events_pb2.Frame, headers: Mapping[str, str]) -> None:
        order = self._frame_orders.setdefault(frame.replica_id, FrameOrder())
        if frame.deltas:
            arrival = order.accept(frame.number, frame, frame.oldest)
        else:
            arrival = order.heartbeat(frame.number, frame.oldest)
        for ready in arrival.ready:
            for delta in ready.deltas:
                self._on_delta(delta, frame.replica_id)
        if arrival.missing is not None:
            _gaps.inc()
            command = wire.resend_command(*arrival.missing)
            self._outgoing.put_nowait((frame.replica_id, command, {}))
        if arrival.broken:
            self._break_all(frame.replica_id)

    def _break_all(self, replica_id: str) -> None:
        logger.error("frames of replica %s are gone for good", replica_id)
        for sequence in self._sequences.values():
            if sequence.job.replica_id == replica_id:
                sequence.fail(unavailable("A part of the answer was lost."))

    def _on_delta(self, message: events_pb2.SequenceDelta, replica_id: str) -> None:
        job_id = message.job_id
        sequence = self._sequences.get(job_id)
        if sequence is None or sequence.end is not None:
            return
        if sequence.job.replica_id != replica_id:
            # counted as lost, placed elsewhere since, and back again
            return
        delta = wire.delta(message, is_first=not sequence.job.has_output)
        if (end := delta.end) is not None and end.rejected:
            self._do(self._dispatcher.rejected(job_id, end.expected_wait_s))
            return
        if delta.token_ids:
            self._dispatcher.progressed(job_id)
        sequence.take(delta)
        if end is None:
            self._detokenizer.feed(job_id, delta.token_ids, final=False)
            return
        sequence.end = end
        self._do(self._dispatcher.ended(job_id))
        if end.error is None:
            self._detokenizer.feed(job_id, delta.token_ids, final=True)
            self._feed_other_beams(sequence, end)
        else:
            sequence.fail(end.error)

    def _feed_other_beams(self, sequence: SequenceInFlight, end: End) -> None:
        sequence.num_beams += len(end.other_beams)
        for index, beam in enumerate(end.other_beams, 1):
            text_id = beam_id(sequence.job.id, index)
            sink = partial(sequence.add_beam_text, index, beam.finish_reason)
            self._detokenizer.open(text_id, TextOptions.of(sequence.request), sink)
            self._detokenizer.feed(text_id, beam.token_ids, final=True)
