"""The gateway's neighbours, real or scripted: a tokenizer that can be killed, a replica by hand."""

import asyncio
import json
import string
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
from tokenizers import Tokenizer, decoders, models

from mesh.bus import Bus, subjects
from mesh.pb import common_pb2, events_pb2, tokenizer_pb2_grpc
from services.tokenizer.chat import ChatTemplate
from services.tokenizer.checkpoint import Checkpoint
from services.tokenizer.codec import Codec
from services.tokenizer.servicer import TokenizerServicer
from services.tokenizer.workers import Workers
from tests.waiting import until

STOP, LENGTH = common_pb2.FINISH_REASON_STOP, common_pb2.FINISH_REASON_LENGTH
REJECTED = common_pb2.FINISH_REASON_REJECTED
LETTERS = string.ascii_lowercase + string.digits


def ids(text: str) -> list[int]:
    """One token per letter."""
    return [LETTERS.index(letter) for letter in text]


def _servicer() -> TokenizerServicer:
    vocabulary = {letter: i for i, letter in enumerate(LETTERS)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.decoder = decoders.ByteLevel()
    with tempfile.TemporaryDirectory() as name:
        tokenizer.save(f"{name}/tokenizer.json")
        config = {"max_position_embeddings": 512, "vocab_size": len(LETTERS)}
        Path(name, "config.json").write_text(json.dumps(config))
        checkpoint = Checkpoint.read(name, "letters")
    return TokenizerServicer(
        checkpoint, Codec(checkpoint), ChatTemplate.of(checkpoint), Workers(1, 1), 2**20
    )


class LetterTokenizer:
    """The real tokenizer service over an alphabet, on one port, killed and started at will."""

    def __init__(self) -> None:
        self.port = 0
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Serves, on the port of the last time if there was one."""
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        tokenizer_pb2_grpc.add_TokenizerServicer_to_server(_servicer(), self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def kill(self) -> None:
        """Cuts every stream."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator["LetterTokenizer"]:
        """Serves inside the block."""
        await self.start()
        try:
            yield self
        finally:
            await self.kill()


class ScriptedReplica:
    """Speaks a generator's part on the bus, but does only what the test says."""

    def __init__(self, bus: Bus, replica_id: str, revision: str = "r1") -> None:
        self.id = replica_id
        self.room = 4
        self.expected_wait_s = 0.0
        self.job_ids: list[str] = []
        self.jobs: list[events_pb2.Job] = []
        self.headers: list[Mapping[str, str]] = []
        self.cancelled: list[str] = []
        self.stopped: list[str] = []
        self.resends: list[tuple[int, int]] = []
        self.gateways: list[str] = []
        self.beats = 0
        self.alive = True
        self.answers_resends = True
        self.frames: list[events_pb2.Frame] = []
        self.oldest = 1
        self.model = common_pb2.ModelInfo(
            id="letters", revision=revision, context_length=512, vocab_size=len(LETTERS)
        )
        self._bus = bus

    @asynccontextmanager
    async def running(self, interval_s: float = 0.05) -> AsyncIterator["ScriptedReplica"]:
        """Listens and announces itself inside the block."""
        commands = await self._bus.subscribe(
            subjects.commands(self.id), events_pb2.Command, self._on_command
        )
        hellos = await self._bus.subscribe(subjects.HELLO, events_pb2.Hello, self._on_hello)
        await self._bus._client.flush(10)
        announcing = asyncio.create_task(self._announce_often(interval_s))
        try:
            yield self
        finally:
            announcing.cancel()
            await asyncio.gather(announcing, return_exceptions=True)
            for subscription in (commands, hellos):
                await subscription.unsubscribe()

    async def announce(self, **changes: object) -> None:
        """Says how it is."""
        message = events_pb2.Announcement(
            replica_id=self.id,
            model=self.model,
            room_sequences=max(0, self.room - len(self.job_ids)),
            room_tokens=10_000,
            running=len(self.job_ids),
            job_ids=self.job_ids,
            expected_wait_s=self.expected_wait_s,
            **changes,
        )
        await self._bus.publish(subjects.ANNOUNCE, message)

    async def job(self, index: int = 0) -> events_pb2.Job:
        """The job that came as number `index`, once it has."""
        await until(lambda: len(self.jobs) > index)
        return self.jobs[index]

    async def say(
        self,
        job_id: str,
        text: str = "",
        end: "common_pb2.FinishReason" = common_pb2.FINISH_REASON_UNSPECIFIED,
        *,
        lose: bool = False,
        expected_wait_s: float | None = None,
    ) -> None:
        """One frame with new tokens of a sequence; `lose` numbers it but keeps it from the bus."""
        delta = events_pb2.SequenceDelta(
            job_id=job_id,
            token_ids=ids(text),
            finish_reason=end,
            expected_wait_s=expected_wait_s,
        )
        if end:
            delta.usage.CopyFrom(common_pb2.Usage(prompt_tokens=3, completion_tokens=7))
            delta.timings.CopyFrom(common_pb2.Timings(queue_s=0.5, prefill_s=0.25, decode_s=2))
            if job_id in self.job_ids:
                self.job_ids.remove(job_id)
        await self.send([delta], lose=lose)

    async def send(self, deltas: Iterable[events_pb2.SequenceDelta], *, lose: bool = False) -> None:
        """One frame."""
        frame = events_pb2.Frame(
            replica_id=self.id, number=len(self.frames) + 1, deltas=deltas, oldest=self.oldest
        )
        self.frames.append(frame)
        if not lose:
            await self._bus.publish(subjects.frames(self.gateways[-1]), frame)

    async def beat(self) -> None:
        """A heartbeat with the last number."""
        frame = events_pb2.Frame(replica_id=self.id, number=len(self.frames), oldest=self.oldest)
        await self._bus.publish(subjects.frames(self.gateways[-1]), frame)

    async def _announce_often(self, interval_s: float) -> None:
        while True:
            if self.alive:
                await self.announce()
            await asyncio.sleep(interval_s)

    async def _on_hello(self, message: events_pb2.Hello, headers: Mapping[str, str]) -> None:
        if message.gateway_id not in self.gateways:
            self.gateways.append(message.gateway_id)
        if self.alive:
            await self.announce()

    async def _on_command(self, message: events_pb2.Command, headers: Mapping[str, str]) -> None:
        if message.gateway_id not in self.gateways:
            self.gateways.append(message.gateway_id)
        match message.WhichOneof("command"):
            case "job":
                self.jobs.append(message.job)
                self.headers.append(headers)
                self.job_ids.append(message.job.job_id)
            case "cancel":
                self.cancelled.append(message.cancel.job_id)
                if message.cancel.stopped:
                    self.stopped.append(message.cancel.job_id)
                if message.cancel.job_id in self.job_ids:
                    self.job_ids.remove(message.cancel.job_id)
            case "resend":
                first, last = message.resend.first, message.resend.last
                self.resends.append((first, last))
                if self.answers_resends:
                    for frame in self.frames[first - 1 : last]:
                        await self._bus.publish(subjects.frames(message.gateway_id), frame)
            case None:
                self.beats += 1
