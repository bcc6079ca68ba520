"""Work queues on JetStream: each task goes to one worker and stays until that worker is done."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import nats.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, DiscardPolicy, RetentionPolicy, StreamConfig
from nats.js.errors import NotFoundError

from mesh.bus.errors import BusUnavailableError, translated
from mesh.bus.messages import (
    MAX_PENDING_BYTES,
    MAX_PENDING_MESSAGES,
    M,
    Versioned,
    decode,
    encode,
)

MAX_TASKS = 100_000
MAX_IN_PROGRESS = 64
ACK_TIMEOUT_S = 5.0
_UNAVAILABLE = "The work queue is not available now."


class WorkQueue:
    """Tasks on disk, at most MAX_TASKS; one more is refused."""

    def __init__(self, jetstream: JetStreamContext, stream: str, subject: str) -> None:
        self._jetstream = jetstream
        self._stream = stream
        self._subject = subject

    @classmethod
    async def open(
        cls, jetstream: JetStreamContext, stream: str, subject: str, *, duplicate_window_s: float
    ) -> "WorkQueue":
        """Make the stream if it is not there; raise BusUnavailableError.

        A task id that was queued within `duplicate_window_s` is not queued again.
        """
        config = StreamConfig(
            name=stream,
            subjects=[subject],
            retention=RetentionPolicy.WORK_QUEUE,
            duplicate_window=duplicate_window_s,
            max_msgs=MAX_TASKS,
            # refuse a new task rather than drop the oldest
            discard=DiscardPolicy.NEW,
        )
        with translated(_UNAVAILABLE):
            try:
                await jetstream.stream_info(stream)
            except NotFoundError:
                await jetstream.add_stream(config)
        return cls(jetstream, stream, subject)

    async def enqueue(
        self, message: Versioned, *, task_id: str, headers: Mapping[str, str]
    ) -> bool:
        """Add a task; return when it is on disk. False: this `task_id` was queued before.

        Raises BusUnavailableError, also where the queue is full.
        """
        with translated(_UNAVAILABLE):
            ack = await self._jetstream.publish(
                self._subject,
                encode(message),
                timeout=ACK_TIMEOUT_S,
                headers={**headers, "Nats-Msg-Id": task_id},
            )
        return not ack.duplicate

    async def num_tasks(self) -> int:
        """Return how many tasks wait or are in progress."""
        with translated(_UNAVAILABLE):
            return int((await self._jetstream.stream_info(self._stream)).state.messages)

    @asynccontextmanager
    async def consumer(
        self, durable: str, *, ack_wait_s: float, max_deliver: int
    ) -> AsyncIterator["Consumer"]:
        """Take part, inside the block, in a consumer that all replicas of a service share.

        A task that is not ended within `ack_wait_s` goes to another worker, `max_deliver` times
        in all. Deliveries may outlive the block.
        """
        with translated(_UNAVAILABLE):
            subscription = await self._jetstream.pull_subscribe(
                self._subject,
                durable=durable,
                stream=self._stream,
                config=ConsumerConfig(
                    ack_wait=ack_wait_s, max_deliver=max_deliver, max_ack_pending=MAX_IN_PROGRESS
                ),
                pending_msgs_limit=MAX_PENDING_MESSAGES,
                pending_bytes_limit=MAX_PENDING_BYTES,
            )
        try:
            yield Consumer(subscription)
        finally:
            # left to the connection's drain it would hold that up: the client library never
            # counts what was fetched as done
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()


class Consumer:
    """One worker's side of a work queue."""

    def __init__(self, subscription: JetStreamContext.PullSubscription) -> None:
        self._subscription = subscription

    async def next(self, timeout_s: float) -> "Delivery | None":
        """Wait for a task; None where none comes in time. Raises BusUnavailableError."""
        with translated(_UNAVAILABLE):
            try:
                (raw,) = await self._subscription.fetch(1, timeout=timeout_s)
            except nats.errors.TimeoutError:
                return None
        return Delivery(raw)


class Delivery:
    """One task from a work queue: exactly one of `done`, `retry` and `give_up` ends it.

    Each of them raises BusUnavailableError; the task is then delivered again.
    """

    def __init__(self, raw: Msg) -> None:
        self._raw = raw
        self.headers: dict[str, str] = dict(raw.headers or {})
        self.attempt = raw.metadata.num_delivered

    def read(self, kind: type[M]) -> M:
        """Return the task's message; raise UnreadableError."""
        return decode(kind, self._raw.data)

    async def done(self) -> None:
        """Remove the task, whose work is durable; wait for the server's word."""
        with translated(_UNAVAILABLE):
            await self._raw.ack_sync(timeout=ACK_TIMEOUT_S)

    async def retry(self, delay_s: float) -> None:
        """Have it delivered again later."""
        with translated(_UNAVAILABLE):
            await self._raw.nak(delay=delay_s)

    async def give_up(self) -> None:
        """Remove the task: it can never succeed."""
        with translated(_UNAVAILABLE):
            await self._raw.term()

    async def extend(self) -> None:
        """Restart the time within which the task must end."""
        with translated(_UNAVAILABLE):
            await self._raw.in_progress()

    @asynccontextmanager
    async def extended(self, every_s: float) -> AsyncIterator[None]:
        """Keep the task from other workers for as long as the block runs."""

        async def extend() -> None:
            while True:
                await asyncio.sleep(every_s)
                with contextlib.suppress(BusUnavailableError):
                    await self.extend()

        extending = asyncio.create_task(extend())
        try:
            yield
        finally:
            extending.cancel()
            await asyncio.gather(extending, return_exceptions=True)
