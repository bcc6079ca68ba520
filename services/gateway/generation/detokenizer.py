"""Streams tokens to the tokenizer service and text back, for all of this gateway's sequences.

A few long streams carry everything, one message per engine step. When a stream breaks, its
sequences go to a new one: their tokens so far are sent again and the text that was already
delivered is cut off, so that a reader never notices.
"""

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
from prometheus_client import Counter

from mesh.mailbox import Mailbox
from mesh.pb import tokenizer_pb2 as pb
from mesh.pb import tokenizer_pb2_grpc as pb_grpc
from services.gateway.generation.detokenized import DetokenizedSequence, Sink, TextOptions

logger = logging.getLogger(__name__)

NUM_STREAMS = 2
# an answer takes well under a millisecond of work; a stream that owes one for so long is dead
ANSWER_LIMIT_S = 5.0
RECONNECT_S = 0.1
# what one message carries of a sequence; a replay of a long one takes several
MAX_DELTA_TOKENS = 32_768

# grpc raises the last one where a stream ended just before a write
_WRITER_ENDS = (grpc.aio.AioRpcError, asyncio.InvalidStateError)

_reopened = Counter(
    "infermesh_gateway_detokenize_reopened_total", "Detokenize streams that had to be reopened"
)


Call = grpc.aio.StreamStreamCall[pb.DetokenizeRequest, pb.DetokenizeResponse]


@dataclass(slots=True)
class _Sent:
    """Per sequence of one request: the count of its tokens up to there, and whether it ended."""

    marks: dict[str, tuple[int, bool]]
    at: float


class Detokenizer:
    """Owns the streams; `feed` and `forget` are synchronous, `run` is the task that moves bytes."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        stub = pb_grpc.TokenizerStub(channel)
        self._streams = [_Stream(stub) for _ in range(NUM_STREAMS)]
        self._turn = itertools.cycle(self._streams)
        self._stream_of: dict[str, _Stream] = {}

    def open(self, sequence_id: str, options: TextOptions, sink: Sink) -> None:
        """Begin a sequence; `sink` is called with its text until a `Text` is final or stopped."""
        stream = self._stream_of[sequence_id] = next(self._turn)
        stream.sequences[sequence_id] = DetokenizedSequence(sequence_id, options, sink)

    def feed(self, sequence_id: str, token_ids: Sequence[int], final: bool) -> None:
        """Send more tokens of a sequence, with the next message."""
        stream = self._stream_of.get(sequence_id)
        if stream is not None:
            stream.feed(sequence_id, token_ids, final)

    def forget(self, sequence_id: str) -> None:
        """Let go of a sequence that needs no more text; idempotent."""
        stream = self._stream_of.pop(sequence_id, None)
        if stream is not None:
            stream.forget(sequence_id)

    async def run(self) -> None:
        """Keep the streams going until cancelled."""
        async with asyncio.TaskGroup() as group:
            for stream in self._streams:
                group.create_task(stream.run())


class _Stream:
    """One stream: the sequences on it, which of them have news for it, and what it owes."""

    def __init__(self, stub: "pb_grpc.TokenizerAsyncStub") -> None:
        self._stub = stub
        self.sequences: dict[str, DetokenizedSequence] = {}
        # bounded by the sequences in flight: each is in it once at most
        self._pending: Mailbox[DetokenizedSequence] = Mailbox()
        self._owed: deque[_Sent] = deque()

    def feed(self, sequence_id: str, token_ids: Sequence[int], final: bool) -> None:
        sequence = self.sequences.get(sequence_id)
        if sequence is None:
            # a stop string ended it, and its reader has not taken that yet
            return
        sequence.token_ids.extend(token_ids)
        sequence.final = sequence.final or final
        self._queue(sequence)

    def forget(self, sequence_id: str) -> None:
        sequence = self.sequences.pop(sequence_id, None)
        if sequence is not None:
            sequence.forgotten = True
            if sequence.is_held:
                # the service still holds it: an empty last delta lets it go
                self._queue(sequence)

    def _queue(self, sequence: DetokenizedSequence) -> None:
        if not sequence.queued:
            sequence.queued = True
            self._pending.put(sequence)

    async def run(self) -> None:
        while True:
            call = self._stub.Detokenize()
            writing = asyncio.create_task(self._write(call))
            try:
                await self._read(call)
            except (grpc.aio.AioRpcError, TimeoutError) as error:
                if self.sequences:
                    logger.warning("detokenize stream broke: %s", type(error).__name__)
            finally:
                call.cancel()
                writing.cancel()
                # waited for, not awaited: its cancellation would swallow one of this task
                await asyncio.wait({writing})
            _raise_unless_ended(writing)
            _reopened.inc()
            self._start_over()
            await asyncio.sleep(RECONNECT_S)

    def _start_over(self) -> None:
        """Owe everything again: all tokens so far, less the text that was delivered."""
        self._owed.clear()
        self._pending = Mailbox()
        for sequence in self.sequences.values():
            sequence.start_over()
            if sequence.token_ids or sequence.final:
                self._queue(sequence)

    async def _write(self, call: Call) -> None:
        while True:
            await call.write(self._message(await self._pending.take_all()))

    def _message(self, sequences: Sequence[DetokenizedSequence]) -> pb.DetokenizeRequest:
        """Return what these have not sent yet, and note what the stream owes for it."""
        request = pb.DetokenizeRequest()
        marks = {}
        for sequence in sequences:
            sequence.queued = False
            if sequence.forgotten:
                if sequence.is_held:
                    request.deltas.add(sequence_id=sequence.id, final=True)
                continue
            marks[sequence.id] = sequence.send(request, MAX_DELTA_TOKENS)
            if sequence.num_sent < len(sequence.token_ids):
                self._queue(sequence)
        self._owed.append(_Sent(marks, asyncio.get_running_loop().time()))
        return request

    async def _read(self, call: Call) -> None:
        loop = asyncio.get_running_loop()
        reading: asyncio.Future[object] | None = None
        try:
            while True:
                reading = asyncio.ensure_future(call.read())
                while not reading.done():
                    await asyncio.wait({reading}, timeout=ANSWER_LIMIT_S)
                    overdue = self._owed and loop.time() - self._owed[0].at > ANSWER_LIMIT_S
                    if overdue and not reading.done():
                        raise TimeoutError
                response = reading.result()
                if not isinstance(response, pb.DetokenizeResponse):
                    raise TimeoutError  # the service ended the stream
                self._answered(response)
        finally:
            if reading is not None and not reading.cancel() and not reading.cancelled():
                reading.exception()  # it failed meanwhile, of which nobody needs to hear

    def _answered(self, response: pb.DetokenizeResponse) -> None:
        sent = self._owed.popleft()
        texts = {delta.sequence_id: delta for delta in response.deltas}
        for sequence_id, (num_tokens, final) in sent.marks.items():
            sequence = self.sequences.get(sequence_id)
            if sequence is not None and sequence.receive(
                texts.get(sequence_id), num_tokens, final=final
            ):
                # the service has let it go as well
                self.sequences.pop(sequence_id, None)
                sequence.forgotten = sequence.closed = True


def _raise_unless_ended(writing: "asyncio.Task[None]") -> None:
    """Raise what a writer failed of, unless its stream just ended."""
    fault = None if writing.cancelled() else writing.exception()
    if fault is not None and not isinstance(fault, _WRITER_ENDS):
        raise fault
