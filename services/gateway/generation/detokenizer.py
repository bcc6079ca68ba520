"""Streams tokens to the tokenizer service and text back, for all of this gateway's sequences.

A few long streams carry everything, one message per engine step. When a stream breaks, its
sequences go to a new one: their tokens so far are sent again and the text that was already
delivered is cut off, so that a reader never notices.
"""

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import grpc
from prometheus_client import Counter

from mesh.mailbox import Mailbox
from mesh.pb import tokenizer_pb2 as pb
from mesh.pb import tokenizer_pb2_grpc as pb_grpc

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


@dataclass(frozen=True, slots=True)
class Text:
    """New text; `stopped` when a stop string ended it, `final` when nothing follows.

    `num_tokens` counts the tokens sent so far whose text is accounted for; those after a stop
    string are not.
    """

    text: str
    num_tokens: int
    stopped: bool
    final: bool


Sink = Callable[[Text], None]
Call = grpc.aio.StreamStreamCall[pb.DetokenizeRequest, pb.DetokenizeResponse]


@dataclass(slots=True, eq=False)
class _Sequence:
    """All tokens so far, of which the stream has had `num_sent`; `queued` to send it more.

    The service holds it while it is `opened` and not `closed`.
    """

    id: str
    stop: tuple[str, ...]
    include_stop: bool
    sink: Sink
    token_ids: list[int] = field(default_factory=list)
    num_sent: int = 0
    final: bool = False
    forgotten: bool = False
    opened: bool = False
    closed: bool = False
    queued: bool = False
    num_chars: int = 0
    to_skip: int = 0


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

    def open(self, sequence_id: str, stop: Sequence[str], include_stop: bool, sink: Sink) -> None:
        """Begin a sequence; `sink` is called with its text until a `Text` is final or stopped."""
        stream = self._stream_of[sequence_id] = next(self._turn)
        stream.sequences[sequence_id] = _Sequence(sequence_id, tuple(stop), include_stop, sink)

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
        self.sequences: dict[str, _Sequence] = {}
        # bounded by the sequences in flight: each is in it once at most
        self._pending: Mailbox[_Sequence] = Mailbox()
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
            if sequence.opened and not sequence.closed:
                # the service still holds it: an empty last delta lets it go
                self._queue(sequence)

    def _queue(self, sequence: _Sequence) -> None:
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
            sequence.num_sent = 0
            sequence.opened = sequence.closed = sequence.queued = False
            sequence.to_skip = sequence.num_chars
            if sequence.token_ids or sequence.final:
                self._queue(sequence)

    async def _write(self, call: Call) -> None:
        while True:
            await call.write(self._message(await self._pending.take_all()))

    def _message(self, sequences: Sequence[_Sequence]) -> pb.DetokenizeRequest:
        """Return what these have not sent yet, and note what the stream owes for it."""
        request = pb.DetokenizeRequest()
        marks = {}
        for sequence in sequences:
            sequence.queued = False
            if sequence.forgotten:
                if sequence.opened and not sequence.closed:
                    request.deltas.add(sequence_id=sequence.id, final=True)
                continue
            end = min(sequence.num_sent + MAX_DELTA_TOKENS, len(sequence.token_ids))
            token_ids = sequence.token_ids[sequence.num_sent : end]
            sequence.num_sent = end
            final = sequence.final and end == len(sequence.token_ids)
            delta = request.deltas.add(sequence_id=sequence.id, token_ids=token_ids, final=final)
            if not sequence.opened:
                delta.stop.extend(sequence.stop)
                delta.include_stop = sequence.include_stop
                sequence.opened = True
            sequence.closed = final
            marks[sequence.id] = (end, final)
            if end < len(sequence.token_ids):
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
            if sequence is None:
                continue
            delta = texts.get(sequence_id)
            text = delta.text if delta is not None else ""
            stopped = delta is not None and delta.stopped
            num_tokens -= delta.unused_tokens if delta is not None else 0
            skipped = min(sequence.to_skip, len(text))
            sequence.to_skip -= skipped
            text = text[skipped:]
            sequence.num_chars += len(text)
            if stopped or final:
                # the service has let it go as well
                self.sequences.pop(sequence_id)
                sequence.forgotten = sequence.closed = True
            if text or stopped or final:
                sequence.sink(Text(text, num_tokens, stopped, final or stopped))


def _raise_unless_ended(writing: "asyncio.Task[None]") -> None:
    """Raise what a writer failed of, unless its stream just ended."""
    fault = None if writing.cancelled() else writing.exception()
    if fault is not None and not isinstance(fault, _WRITER_ENDS):
        raise fault
