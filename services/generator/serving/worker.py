"""This replica's side of the bus: takes jobs, sends frames, announces itself."""

import asyncio
import logging
import time
from collections.abc import Mapping

from mesh.bus import Bus, subjects
from mesh.errors import MeshError, invalid
from mesh.mailbox import Mailbox
from mesh.pb import common_pb2, events_pb2
from mesh.telemetry import extract, past_span
from services.generator.engine import ParamError, RequestError, StepOutput
from services.generator.serving import wire
from services.generator.serving.bridge import EngineBridge
from services.generator.serving.outbox import Outbox
from services.generator.serving.submission import Submission

logger = logging.getLogger(__name__)

ANNOUNCE_INTERVAL_S = 0.5
# a gateway that has been silent for so long is gone, and nobody reads its answers
GATEWAY_SILENCE_S = 5.0

_REJECTED = common_pb2.FINISH_REASON_REJECTED


class Worker:
    """Owns the links to all gateways; outputs go out as one frame per gateway and engine
    step, or per several steps where the sender is behind."""

    def __init__(
        self, bus: Bus, bridge: EngineBridge, model: common_pb2.ModelInfo, replica_id: str
    ) -> None:
        self._bus = bus
        self._bridge = bridge
        self._model = model
        self._replica_id = replica_id
        self._links: dict[str, _Link] = {}
        self._changed = asyncio.Event()
        self._draining = False

    async def start(self) -> None:
        """Subscribe; jobs may come from now on."""
        await self._bus.subscribe(
            subjects.commands(self._replica_id), events_pb2.Command, self._on_command
        )
        await self._bus.subscribe(subjects.HELLO, events_pb2.Hello, self._on_hello)

    async def run(self) -> None:
        """Announce until cancelled, and at once when something about it changed."""
        while True:
            self._changed.clear()
            self._drop_silent_gateways()
            try:
                await self._bus.publish(subjects.ANNOUNCE, self._announcement())
                for link in list(self._links.values()):
                    await self._bus.publish(link.subject, link.outbox.heartbeat())
            except MeshError:
                logger.warning("the bus did not take an announcement")
            try:
                async with asyncio.timeout(ANNOUNCE_INTERVAL_S):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def drain(self) -> None:
        """Take no more jobs; return when those it has are done and sent."""
        self._draining = True
        self._changed.set()
        await self._bridge.until_idle()
        for link in list(self._links.values()):
            await link.flushed()

    async def close(self) -> None:
        """End the links; idempotent."""
        links, self._links = self._links, {}
        for link in links.values():
            await link.close()

    def _announcement(self) -> events_pb2.Announcement:
        stats = self._bridge.stats()
        free_blocks = stats.num_blocks_free + stats.num_blocks_cached
        return events_pb2.Announcement(
            replica_id=self._replica_id,
            model=self._model,
            room_sequences=0 if self._draining else self._bridge.room(),
            room_tokens=free_blocks * self._bridge.engine.config.block_size,
            running=self._bridge.num_live(),
            draining=self._draining,
            job_ids=[job_id for link in self._links.values() for job_id in link.jobs],
            expected_wait_s=stats.expected_wait_s,
        )

    def _on_hello(self, message: events_pb2.Hello, headers: Mapping[str, str]) -> None:
        self._link(message.gateway_id)
        self._changed.set()

    async def _on_command(self, message: events_pb2.Command, headers: Mapping[str, str]) -> None:
        link = self._link(message.gateway_id)
        match message.WhichOneof("command"):
            case "job":
                self._take(message.job, headers, link)
            case "cancel":
                self._bridge.abort(message.cancel.job_id, wire.cancel_reason(message.cancel))
            case "resend":
                await link.resend(message.resend.first, message.resend.last)

    def _take(self, job: events_pb2.Job, headers: Mapping[str, str], link: "_Link") -> None:
        if self._bridge.is_live(job.job_id):
            return
        if self._draining or job.model_revision != self._model.revision:
            self._bridge.metrics.refused("draining" if self._draining else "revision")
            link.refuse(job.job_id, _REJECTED)
            return
        left_s = job.deadline_unix_ms / 1000 - time.time()
        try:
            submission = Submission(
                request_id=job.job_id,
                prompt_token_ids=tuple(job.prompt_token_ids),
                params=wire.sampling_params(job.sampling),
                deadline=time.monotonic() + left_s,
                cache_salt=job.cache_salt,
                priority=job.priority,
                tenant=job.tenant,
            )
            if len(submission.sequence_ids) > 1:
                raise invalid("n", "a job has one sequence, or one beam search")
            taken = self._bridge.submit(submission, link)
        except (MeshError, ParamError, RequestError) as error:
            logger.warning("refused job %s: %s", job.job_id, error)
            self._bridge.metrics.refused("invalid")
            link.refuse(job.job_id, common_pb2.FINISH_REASON_ERROR)
            return
        if taken:
            link.jobs[job.job_id] = (time.time(), headers)
        else:
            link.refuse(job.job_id, _REJECTED, self._bridge.expected_wait_s())

    def _link(self, gateway_id: str) -> "_Link":
        link = self._links.get(gateway_id)
        if link is None:
            link = self._links[gateway_id] = _Link(self._bus, gateway_id, self._replica_id)
        link.heard = time.monotonic()
        return link

    def _drop_silent_gateways(self) -> None:
        now = time.monotonic()
        for gateway_id, link in list(self._links.items()):
            if now - link.heard <= GATEWAY_SILENCE_S:
                continue
            for job_id in link.jobs:
                self._bridge.abort(job_id)
            if not link.jobs:
                del self._links[gateway_id]
                link.cancel()


class _Link:
    """One gateway: its jobs here and the frames on their way to it."""

    def __init__(self, bus: Bus, gateway_id: str, replica_id: str) -> None:
        self.subject = subjects.frames(gateway_id)
        self.outbox = Outbox(replica_id)
        self.jobs: dict[str, tuple[float, Mapping[str, str]]] = {}
        self.heard = 0.0
        self._bus = bus
        # bounded by the live sequences: between two frames each adds what the engine steps give it
        self._deltas = Mailbox[events_pb2.SequenceDelta]()
        self._sending = asyncio.create_task(self._send(), name=f"frames to {gateway_id}")

    def receive(self, outputs: list[StepOutput]) -> None:
        """Take one engine step's outputs for this gateway."""
        for output in outputs:
            delta = events_pb2.SequenceDelta(
                job_id=output.request_id,
                token_ids=output.token_ids,
                logprobs=wire.logprobs(output.logprobs),
                prompt_logprobs=wire.logprobs(output.prompt_logprobs),
                other_beams=wire.other_beams(output),
                start=wire.start(output),
            )
            if output.finish_reason is not None:
                delta.finish_reason = wire.finish_reason(output)
                delta.usage.CopyFrom(wire.usage(output))
                delta.timings.CopyFrom(wire.timings(output))
                self._trace(output)
            if output.refusal is not None:
                delta.expected_wait_s = output.refusal.expected_wait_s
            self._deltas.put(delta)

    def refuse(
        self,
        job_id: str,
        reason: common_pb2.FinishReason,
        expected_wait_s: float | None = None,
    ) -> None:
        """Answer a job that never reaches the engine; with the wait, where waiting helps."""
        self._deltas.put(
            events_pb2.SequenceDelta(
                job_id=job_id, finish_reason=reason, expected_wait_s=expected_wait_s
            )
        )

    async def resend(self, first: int, last: int) -> None:
        """Send frames again that the gateway missed."""
        for frame in self.outbox.again(first, last):
            await self._bus.publish(self.subject, frame)

    async def flushed(self) -> None:
        """Return when nothing waits to be sent."""
        await self._deltas.until_idle()

    def cancel(self) -> None:
        """Stop sending."""
        self._sending.cancel()

    async def close(self) -> None:
        """Stop sending and wait for the task's end."""
        self._sending.cancel()
        await asyncio.gather(self._sending, return_exceptions=True)

    async def _send(self) -> None:
        while True:
            for frame in self.outbox.frames(await self._deltas.take_all()):
                try:
                    await self._bus.publish(self.subject, frame)
                except MeshError:
                    # numbered and kept: the gateway will see the gap and ask for it
                    logger.warning("the bus did not take frame %d", frame.number)

    def _trace(self, output: StepOutput) -> None:
        """Export the spans of a sequence that ended: its job's with the engine's stages below."""
        assert output.finish_reason is not None
        now = time.time()
        received, headers = self.jobs.pop(output.request_id, (now, {}))
        job = past_span(
            "generator.job",
            extract(headers),
            received,
            now,
            finish_reason=output.finish_reason.value,
            prompt_tokens=output.num_prompt_tokens,
            completion_tokens=output.num_output_tokens,
        )
        start = now - output.queue_s - output.prefill_s - output.decode_s
        for stage in ("queue", "prefill", "decode"):
            seconds = getattr(output, f"{stage}_s")
            past_span(f"engine.{stage}", job, start, start + seconds)
            start += seconds
