"""Both ends of the ingestion queue: what is accepted survives any crash and is indexed once.

The bytes lie in the object store before the ingestion is recorded, it is recorded before the task
is queued, and the task leaves the queue after the passages can be found.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Mapping

from opentelemetry.trace import SpanKind
from prometheus_client import Counter, Histogram

from mesh.bus import (
    BlobNotFoundError,
    Blobs,
    Bus,
    BusUnavailableError,
    Delivery,
    UnreadableError,
    WorkQueue,
)
from mesh.bus.subjects import INGEST, INGEST_BUCKET, INGEST_STREAM
from mesh.errors import Code, MeshError, invalid, unavailable
from mesh.pb.events_pb2 import IngestTask
from mesh.telemetry import span
from services.retriever.collections_store import CollectionsStore
from services.retriever.document import Document, State
from services.retriever.indexer import Indexer
from services.retriever.store import Superseded

logger = logging.getLogger(__name__)

DURABLE = "retriever"
MAX_ATTEMPTS = 5
ACK_WAIT_S = 10.0
DUPLICATE_WINDOW_S = 120.0
CONTENT_TTL_S = 7 * 86_400.0
FETCH_S = 5.0
MAX_RETRY_DELAY_S = 30.0

_ended = Counter("infermesh_retriever_ingestions_total", "Ingestions that ended", ["outcome"])
_took = Histogram(
    "infermesh_retriever_ingestion_seconds",
    "Time of one attempt at a document",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)


class IngestQueue:
    """`submit` accepts documents; `run` works on them until it is cancelled."""

    def __init__(
        self, bus: Bus, collections: CollectionsStore, indexer: Indexer, workers: int
    ) -> None:
        self._bus = bus
        self._collections = collections
        self._indexer = indexer
        self._room = asyncio.Semaphore(workers)
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, document: Document, content: bytes, headers: Mapping[str, str]) -> None:
        """Return when nothing short of a lost disk can lose the document."""
        try:
            queue, contents = await self._queue(), await self._contents()
            await contents.put(document.ingestion_id, content)
            await self._collections.queue(document)
            await _enqueue(queue, document, headers)
        except BusUnavailableError as error:
            logger.warning("a document was not queued: %s", error.__cause__)
            raise unavailable("The ingestion queue is not available now.") from error

    async def run(self) -> None:
        """Work on documents; a bus that goes away is waited for."""
        try:
            while True:
                try:
                    await self._consume()
                except BusUnavailableError as error:
                    cause = type(error.__cause__).__name__
                    logger.warning("the ingestion queue is away: %s", cause)
                    await asyncio.sleep(random.uniform(0.5, 1.5))
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def resume(self) -> None:
        """Queue again what was recorded and may not have reached the queue before a crash."""
        queue, contents = await self._queue(), await self._contents()
        for document in await self._collections.queued():
            if await contents.exists(document.ingestion_id):
                await _enqueue(queue, document, {})
            else:
                await self._collections.fail(document.ingestion_id, _LOST)

    async def _queue(self) -> WorkQueue:
        return await self._bus.work_queue(
            INGEST_STREAM, INGEST, duplicate_window_s=DUPLICATE_WINDOW_S
        )

    async def _contents(self) -> Blobs:
        return await self._bus.blobs(INGEST_BUCKET, ttl_s=CONTENT_TTL_S)

    async def _consume(self) -> None:
        await self.resume()
        queue = await self._queue()
        # the last delivery finds out that all attempts ended with the process
        max_deliver = MAX_ATTEMPTS + 1
        async with queue.consumer(
            DURABLE, ack_wait_s=ACK_WAIT_S, max_deliver=max_deliver
        ) as consumer:
            while True:
                await self._room.acquire()
                try:
                    delivery = await consumer.next(FETCH_S)
                except BaseException:
                    self._room.release()
                    raise
                if delivery is None:
                    self._room.release()
                    continue
                work = asyncio.create_task(self._work(delivery))
                self._tasks.add(work)
                work.add_done_callback(self._leave)

    def _leave(self, work: asyncio.Task[None]) -> None:
        self._tasks.discard(work)
        self._room.release()

    async def _work(self, delivery: Delivery) -> None:
        """Bring one delivery to its end; whatever goes wrong leaves it in the queue."""
        try:
            with span("ingest", kind=SpanKind.CONSUMER, carrier=delivery.headers), _took.time():
                async with delivery.extended(ACK_WAIT_S / 3):
                    await self._attempt(delivery)
        except asyncio.CancelledError:
            with contextlib.suppress(BusUnavailableError):
                await delivery.retry(0)
            raise
        except Exception:
            logger.exception("attempt %d at a document failed", delivery.attempt)
            with contextlib.suppress(BusUnavailableError):
                await delivery.retry(_delay_s(delivery.attempt))

    async def _attempt(self, delivery: Delivery) -> None:
        try:
            task = delivery.read(IngestTask)
        except UnreadableError as error:
            logger.warning("refused an ingestion task: %s", error)
            await delivery.give_up()
            return
        document = Document(
            task.ingestion_id, task.document_id, task.collection, task.source, task.media_type
        )
        # a store that was lost or replaced learns of the ingestion here
        await self._collections.queue(document)
        status = await self._collections.status(document.ingestion_id)
        if status is None or status.state is State.QUEUED:
            outcome = await self._outcome(document, delivery.attempt)
            _ended.labels(outcome).inc()
        await delivery.done()
        with contextlib.suppress(BusUnavailableError):
            await (await self._contents()).delete(document.ingestion_id)

    async def _outcome(self, document: Document, attempt: int) -> str:
        """End the ingestion, or raise for another attempt."""
        try:
            if attempt > MAX_ATTEMPTS:
                raise MeshError(Code.INTERNAL, "The process ended at each attempt.")
            count = await self._indexer.index(document, await self._content(document))
        except Superseded:
            await self._collections.fail(document.ingestion_id, "A later version came first.")
            return "superseded"
        except Exception as error:
            reason = _reason(error, attempt)
            if reason is None:
                raise
            logger.info("ingestion %s failed: %s", document.ingestion_id, reason)
            await self._collections.fail(document.ingestion_id, reason)
            return "failed"
        logger.info("indexed %d passages for ingestion %s", count, document.ingestion_id)
        return "indexed"

    async def _content(self, document: Document) -> bytes:
        contents = await self._contents()
        try:
            return await contents.get(document.ingestion_id)
        except BlobNotFoundError:
            raise invalid("content", _LOST) from None


async def _enqueue(queue: WorkQueue, document: Document, headers: Mapping[str, str]) -> None:
    task = IngestTask(
        ingestion_id=document.ingestion_id,
        document_id=document.document_id,
        collection=document.collection,
        source=document.source,
        media_type=document.media_type,
    )
    await queue.enqueue(task, task_id=document.ingestion_id, headers=headers)


def _reason(error: Exception, attempt: int) -> str | None:
    """Return why an attempt's error ends its ingestion; None where another attempt may help."""
    if isinstance(error, MeshError) and not isinstance(error, BusUnavailableError):
        return error.message
    if attempt < MAX_ATTEMPTS:
        return None
    logger.error("gave up after %d attempts", attempt, exc_info=error)
    return "It could not be indexed."


_LOST = "The document's content is no longer in the queue; ingest it again."


def _delay_s(attempt: int) -> float:
    return min(MAX_RETRY_DELAY_S, random.uniform(0.5, 1) * 2.0 ** (attempt - 1))
