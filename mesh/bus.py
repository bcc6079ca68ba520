"""NATS: subjects, publishing, bounded subscriptions, and work queues on JetStream.

Subjects are built here and nowhere else.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeVar

import nats
from google.protobuf.message import DecodeError, Message
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext
from nats.js.api import (
    ConsumerConfig,
    DiscardPolicy,
    KeyValueConfig,
    ObjectStoreConfig,
    RetentionPolicy,
    StreamConfig,
)
from nats.js.errors import BucketNotFoundError, NotFoundError
from nats.js.kv import KeyValue
from nats.js.object_store import ObjectStore
from prometheus_client import Counter

from mesh.errors import unavailable

log = logging.getLogger(__name__)

VERSION = 1
MAX_PENDING_MESSAGES = 16_384
MAX_PENDING_BYTES = 64 * 2**20
CONNECT_TIMEOUT_S = 15.0
TIMEOUT_S = 5.0
NO_RESPONDERS = "503"

ANNOUNCE = "mesh.v1.generator.announce"
HELLO = "mesh.v1.generator.hello"
INGEST_STREAM = "INGEST"
INGEST = "mesh.v1.ingest.document"
INGEST_BUCKET = "ingest-documents"


def commands(replica_id: str) -> str:
    """Where one generator replica takes jobs, cancellations and requests for missed frames."""
    return f"mesh.v1.generator.command.{replica_id}"


def undelivered(gateway_id: str, replica_id: str) -> str:
    """Where the server tells a gateway that nobody takes a replica's commands any more."""
    return f"mesh.v1.gateway.undelivered.{gateway_id}.{replica_id}"


def frames(gateway_id: str) -> str:
    """Where one gateway receives the token frames of its jobs."""
    return f"mesh.v1.gateway.frames.{gateway_id}"


_refused = Counter("infermesh_bus_refused_total", "Messages that could not be read", ["subject"])
_slow = Counter("infermesh_bus_errors_total", "Errors on the bus connection", ["kind"])


class Versioned(Protocol):
    """A bus message's generated class instance."""

    version: int

    def SerializeToString(self) -> bytes: ...


M = TypeVar("M", bound=Message)
Handler = Callable[[M, Mapping[str, str]], Awaitable[None] | None]
TaskHandler = Callable[["Delivery"], Awaitable[None]]


class UnreadableError(Exception):
    """A message that is no message of this contract or of a newer version of it."""


def decode(kind: type[M], data: bytes) -> M:
    """Reads a bus message; raises UnreadableError. Fields that are not known are kept aside."""
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise UnreadableError("not a message of this contract") from error
    version = message.version  # type: ignore[attr-defined]  # every bus message has it
    if not 1 <= version <= VERSION:
        raise UnreadableError(f"version {version}")
    return message


class Bus:
    """One connection to NATS; reconnects for ever."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._jetstream = client.jetstream(timeout=TIMEOUT_S)
        self._consumers: list[JetStreamContext.PullSubscription] = []

    @classmethod
    async def connect(cls, urls: str, name: str) -> "Bus":
        """Connects within CONNECT_TIMEOUT_S; `urls` may list several servers with commas."""
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            client = await nats.connect(
                servers=[u.strip() for u in urls.split(",")],
                name=name,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.2,
                ping_interval=5,
                max_outstanding_pings=2,
                pending_size=8 * 2**20,
                error_cb=_on_error,
                disconnected_cb=_on_disconnect,
            )
        return cls(client)

    async def ping(self) -> None:
        """Raises when the server does not answer."""
        # between connections the client's flush would return at once
        if not self._client.is_connected:
            raise unavailable("The message bus is not available now.")
        await self._client.flush(timeout=1)

    async def publish(
        self,
        subject: str,
        message: Versioned,
        *,
        headers: Mapping[str, str] | None = None,
        undelivered: str = "",
    ) -> None:
        """Sends without waiting for anyone; `message.version` is set here.

        Where nobody subscribes to `subject`, the server says so on the subject `undelivered`.
        Raises UNAVAILABLE when the connection is down and its buffer full.
        """
        message.version = VERSION
        try:
            await self._client.publish(
                subject,
                message.SerializeToString(),
                reply=undelivered,
                headers=dict(headers) if headers else None,
            )
        except nats.errors.Error as error:
            raise unavailable("The message bus is not available now.") from error

    async def on_undelivered(self, subjects: str, handler: Callable[[str], None]) -> None:
        """Calls `handler` with the last part of each of `subjects` that the server answers on."""

        async def receive(raw: Msg) -> None:
            if (raw.headers or {}).get("Status") == NO_RESPONDERS:
                handler(raw.subject.rsplit(".", 1)[1])

        await self._client.subscribe(subjects, cb=receive, pending_msgs_limit=MAX_PENDING_MESSAGES)

    async def subscribe(self, subject: str, kind: type[M], handler: "Handler[M]") -> Subscription:
        """Calls `handler(message, headers)` for each message, one after the other.

        The queue before it is bounded in messages and bytes; what does not fit is dropped by the
        client library, which reports it to the error counter.
        """

        async def receive(raw: Msg) -> None:
            try:
                message = decode(kind, raw.data)
            except UnreadableError as error:
                _refused.labels(subject.rsplit(".", 1)[0]).inc()
                log.warning("refused a message on %s: %s", subject, error)
                return
            try:
                waiting = handler(message, raw.headers or {})
                if waiting is not None:
                    await waiting
            except Exception:
                log.exception("handler for %s failed", subject)

        return await self._client.subscribe(
            subject,
            cb=receive,
            pending_msgs_limit=MAX_PENDING_MESSAGES,
            pending_bytes_limit=MAX_PENDING_BYTES,
        )

    async def work_queue(self, stream: str, subject: str, *, duplicate_window_s: float) -> None:
        """Makes the stream behind a work queue if it is not there; it keeps tasks until acked."""
        config = StreamConfig(
            name=stream,
            subjects=[subject],
            retention=RetentionPolicy.WORK_QUEUE,
            duplicate_window=duplicate_window_s,
            max_msgs=100_000,
            # refuse a new task rather than drop the oldest
            discard=DiscardPolicy.NEW,
        )
        try:
            await self._jetstream.stream_info(stream)
        except NotFoundError:
            await self._jetstream.add_stream(config)

    async def enqueue(
        self, subject: str, message: Versioned, *, task_id: str, headers: Mapping[str, str]
    ) -> bool:
        """Adds a task; returns when it is on disk. False: this `task_id` was queued before."""
        message.version = VERSION
        try:
            ack = await self._jetstream.publish(
                subject,
                message.SerializeToString(),
                timeout=TIMEOUT_S,
                headers={**headers, "Nats-Msg-Id": task_id},
            )
        except nats.errors.Error as error:
            raise unavailable("The work queue is not available now.") from error
        return not ack.duplicate

    async def consumer(
        self, stream: str, subject: str, durable: str, *, ack_wait_s: float, max_deliver: int
    ) -> JetStreamContext.PullSubscription:
        """A pull consumer that all replicas of a service share."""
        consumer = await self._jetstream.pull_subscribe(
            subject,
            durable=durable,
            stream=stream,
            config=ConsumerConfig(ack_wait=ack_wait_s, max_deliver=max_deliver, max_ack_pending=64),
            pending_msgs_limit=MAX_PENDING_MESSAGES,
            pending_bytes_limit=MAX_PENDING_BYTES,
        )
        self._consumers.append(consumer)
        return consumer

    async def objects(self, bucket: str, *, ttl_s: float) -> ObjectStore:
        """A bucket for payloads that are too large for a message."""
        try:
            return await self._jetstream.object_store(bucket)
        except (BucketNotFoundError, NotFoundError):
            return await self._jetstream.create_object_store(
                bucket, ObjectStoreConfig(bucket=bucket, ttl=ttl_s)
            )

    async def keys(self, bucket: str, *, ttl_s: float) -> KeyValue:
        """A bucket of small values that vanish `ttl_s` after they were last written."""
        try:
            return await self._jetstream.key_value(bucket)
        except (BucketNotFoundError, NotFoundError):
            return await self._jetstream.create_key_value(KeyValueConfig(bucket=bucket, ttl=ttl_s))

    async def close(self) -> None:
        """Sends what is buffered and disconnects; idempotent."""
        if not self._client.is_closed:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    # nats-py's drain would wait for ever: it never counts what was fetched as done
                    for consumer in self._consumers:
                        await consumer.unsubscribe()
                    self._consumers.clear()
                    await self._client.drain()
            except (TimeoutError, nats.errors.Error):
                await self._client.close()


class Delivery:
    """One task from a work queue: exactly one of `done`, `retry` and `give_up` ends it."""

    def __init__(self, raw: Msg) -> None:
        self._raw = raw
        self.data = raw.data
        self.headers: dict[str, str] = dict(raw.headers or {})
        self.attempt = raw.metadata.num_delivered

    async def done(self) -> None:
        """The task's work is durable; it leaves the queue. Waits for the server's word."""
        await self._raw.ack_sync(timeout=TIMEOUT_S)

    async def retry(self, delay_s: float) -> None:
        """Deliver it again later."""
        await self._raw.nak(delay=delay_s)

    async def give_up(self) -> None:
        """It can never succeed; it leaves the queue."""
        await self._raw.term()

    async def working(self) -> None:
        """Restarts the time within which the task must end."""
        await self._raw.in_progress()


async def _on_error(error: Exception) -> None:
    _slow.labels(type(error).__name__).inc()
    log.warning("bus error: %s", type(error).__name__)


async def _on_disconnect() -> None:
    log.warning("disconnected from the bus")
