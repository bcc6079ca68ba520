"""One connection to NATS: publishing, bounded subscriptions, the way to what JetStream keeps."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from prometheus_client import Counter

from mesh.bus.blobs import Blobs
from mesh.bus.errors import BusUnavailableError, translated
from mesh.bus.lease import Lease
from mesh.bus.messages import (
    MAX_PENDING_BYTES,
    MAX_PENDING_MESSAGES,
    M,
    UnreadableError,
    Versioned,
    decode,
    encode,
)
from mesh.bus.work_queue import WorkQueue

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 15.0
TIMEOUT_S = 5.0
NO_RESPONDERS = "503"

_refused = Counter("infermesh_bus_refused_total", "Messages that could not be read", ["subject"])
_errors = Counter("infermesh_bus_errors_total", "Errors on the bus connection", ["kind"])

Handler = Callable[[M, Mapping[str, str]], Awaitable[None] | None]


class Subscription(Protocol):
    """A handler that is called until `unsubscribe`."""

    async def unsubscribe(self) -> None: ...


class Bus:
    """One connection to NATS; reconnects for ever."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._jetstream = client.jetstream(timeout=TIMEOUT_S)

    @classmethod
    async def connect(cls, urls: str, name: str) -> "Bus":
        """Connect within CONNECT_TIMEOUT_S; `urls` may list several servers with commas."""
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
        """Return once the server has answered; raise where it does not."""
        # between connections the client's flush would return at once
        if not self._client.is_connected:
            raise BusUnavailableError
        with translated():
            await self._client.flush(timeout=1)

    async def publish(
        self,
        subject: str,
        message: Versioned,
        *,
        headers: Mapping[str, str] | None = None,
        undelivered: str = "",
    ) -> None:
        """Send without waiting for anyone; `message.version` is set here.

        Where nobody subscribes to `subject`, the server says so on the subject `undelivered`.
        Raises BusUnavailableError when the connection is down and its buffer full.
        """
        with translated():
            await self._client.publish(
                subject,
                encode(message),
                reply=undelivered,
                headers=dict(headers) if headers else None,
            )

    async def on_undelivered(self, subjects: str, handler: Callable[[str], None]) -> None:
        """Call `handler` with the last part of each of `subjects` that the server answers on."""

        async def receive(raw: Msg) -> None:
            if (raw.headers or {}).get("Status") == NO_RESPONDERS:
                handler(raw.subject.rsplit(".", 1)[1])

        with translated():
            await self._client.subscribe(
                subjects, cb=receive, pending_msgs_limit=MAX_PENDING_MESSAGES
            )

    async def subscribe(self, subject: str, kind: type[M], handler: "Handler[M]") -> Subscription:
        """Call `handler(message, headers)` for each message, one after the other.

        The queue before it is bounded in messages and bytes; what does not fit is dropped by the
        client library, which reports it to the error counter.
        """

        async def receive(raw: Msg) -> None:
            try:
                message = decode(kind, raw.data)
            except UnreadableError as error:
                _refused.labels(subject.rsplit(".", 1)[0]).inc()
                logger.warning("refused a message on %s: %s", subject, error)
                return
            try:
                waiting = handler(message, raw.headers or {})
                if waiting is not None:
                    await waiting
            except Exception:
                logger.exception("handler for %s failed", subject)

        with translated():
            return await self._client.subscribe(
                subject,
                cb=receive,
                pending_msgs_limit=MAX_PENDING_MESSAGES,
                pending_bytes_limit=MAX_PENDING_BYTES,
            )

    async def work_queue(
        self, stream: str, subject: str, *, duplicate_window_s: float
    ) -> WorkQueue:
        """Return the work queue on `stream`; make it if it is not there."""
        return await WorkQueue.open(
            self._jetstream, stream, subject, duplicate_window_s=duplicate_window_s
        )

    async def blobs(self, bucket: str, *, ttl_s: float) -> Blobs:
        """Return the blobs in `bucket`; make it if it is not there."""
        return await Blobs.open(self._jetstream, bucket, ttl_s=ttl_s)

    def lease(self, bucket: str, owner: str, *, ttl_s: float, renew_s: float) -> Lease:
        """Return the lease that `bucket` stands for, not yet acquired."""
        return Lease(self._jetstream, bucket, owner, ttl_s=ttl_s, renew_s=renew_s)

    async def close(self) -> None:
        """Send what is buffered and disconnect; idempotent."""
        if not self._client.is_closed:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    await self._client.drain()
            except (TimeoutError, nats.errors.Error):
                await self._client.close()


async def _on_error(error: Exception) -> None:
    _errors.labels(type(error).__name__).inc()
    logger.warning("bus error: %s", type(error).__name__)


async def _on_disconnect() -> None:
    logger.warning("disconnected from the bus")
