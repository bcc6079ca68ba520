"""Both ends of the ingestion queue: what is accepted survives any crash and is indexed once.

The bytes lie in the object store before the ingestion is recorded, it is recorded before the task
is queued, and the task leaves the queue after the passages can be found.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Mapping

import nats.errors
from nats.js import JetStreamContext
from nats.js.api import ObjectMeta, ObjectMetaOptions
from nats.js.errors import ObjectNotFoundError
from nats.js.object_store import ObjectStore
from opentelemetry.trace import SpanKind
from prometheus_client import Counter, Histogram

from mesh.bus import (
    INGEST,
    INGEST_BUCKET,
    INGEST_STREAM,
    Bus,
    Delivery,
    UnreadableError,
    decode,
)
from mesh.errors import Code, MeshError, invalid, unavailable
from mesh.pb.events_pb2 import IngestTask
from mesh.telemetry import span
from services.retriever.document import Document, State
from services.retriever.ingest import Indexer
from services.retriever.library import Library
from services.retriever.store import Superseded

log = logging.getLogger(__name__)

DURABLE = "retriever"
MAX_ATTEMPTS = 5
ACK_WAIT_S = 10.0
DUPLICATE_WINDOW_S = 120.0
CONTENT_TTL_S = 7 * 86_400.0
FETCH_S = 5.0
CONTENT_TIMEOUT_S = 60.0
CHUNK_BYTES = 2**20
MAX_RETRY_DELAY_S = 30.0

_ended = Counter("infermesh_retriever_ingestions_total", "Ingestions that ended", ["outcome"])
_took = Histogram(
    "infermesh_retriever_ingestion_seconds",
    "Time of one attempt at a document",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)


class Intake:
    """`submit` accepts documents; `run` works on them until it is cancelled."""

    def __init__(self, bus: Bus, library: Library, indexer: Indexer, workers: int) -> None:
        self._bus = bus
        self._library = library
        self._indexer = indexer
        self._room = asyncio.Semaphore(workers)
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, document: Document, content: bytes, headers: Mapping[str, str]) -> None:
        """Returns when nothing short of a lost disk can lose the document."""
        try:
            objects = await self._open()
            meta = ObjectMeta(options=ObjectMetaOptions(max_chunk_size=CHUNK_BYTES))
            await objects.put(document.ingestion_id, content, meta)
            await self._library.queue(document)
            await self._enqueue(document, headers)
        except (nats.errors.Error, TimeoutError) as error:
            log.warning("a document was not queued: %s", error)
            raise unavailable("The ingestion queue is not available now.") from error

    async def run(self) -> None:
        """Works on documents; a bus that goes away is waited for."""
        try:
            while True:
                try:
                    await self._consume()
                except (nats.errors.Error, TimeoutError) as error:
                    log.warning("the ingestion queue is away: %s", type(error).__name__)
                    await asyncio.sleep(random.uniform(0.5, 1.5))
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def resume(self) -> None:
        """Queues again what was recorded and may not have reached the queue before a crash."""
        objects = await self._open()
        for document in await self._library.queued():
            try:
                await objects.get_info(document.ingestion_id)
            except ObjectNotFoundError:
                await self._library.fail(document.ingestion_id, _LOST)
            else:
                await self._enqueue(document, {})

    async def _open(self) -> ObjectStore:
        await self._bus.work_queue(INGEST_STREAM, INGEST, duplicate_window_s=DUPLICATE_WINDOW_S)
        return await self._bus.objects(INGEST_BUCKET, ttl_s=CONTENT_TTL_S)

    async def _enqueue(self, document: Document, headers: Mapping[str, str]) -> None:
        task = IngestTask(
            ingestion_id=document.ingestion_id,
            document_id=document.document_id,
            collection=document.collection,
            source=document.source,
            media_type=document.media_type,
        )
        await self._bus.enqueue(INGEST, task, task_id=document.ingestion_id, headers=headers)

    async def _consume(self) -> None:
        await self.resume()
        tasks = await self._bus.consumer(
            INGEST_STREAM,
            INGEST,
            DURABLE,
            ack_wait_s=ACK_WAIT_S,
            # the last delivery finds out that all attempts ended with the process
            max_deliver=MAX_ATTEMPTS + 1,
        )
        while True:
            await self._room.acquire()
            try:
                delivery = await _next(tasks)
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
        """One delivery to its end; whatever goes wrong leaves it in the queue."""
        try:
            with span("ingest", kind=SpanKind.CONSUMER, carrier=delivery.headers), _took.time():
                async with _kept(delivery):
                    await self._attempt(delivery)
        except asyncio.CancelledError:
            with contextlib.suppress(nats.errors.Error):
                await delivery.retry(0)
            raise
        except Exception:
            log.exception("attempt %d at a document failed", delivery.attempt)
            with contextlib.suppress(nats.errors.Error):
                await delivery.retry(_delay_s(delivery.attempt))

    async def _attempt(self, delivery: Delivery) -> None:
        try:
            task = decode(IngestTask, delivery.data)
        except UnreadableError as error:
            log.warning("refused an ingestion task: %s", error)
            await delivery.give_up()
            return
        document = Document(
            task.ingestion_id, task.document_id, task.collection, task.source, task.media_type
        )
        # a store that was lost or replaced learns of the ingestion here
        await self._library.queue(document)
        status = await self._library.status(document.ingestion_id)
        if status is None or status.state is State.QUEUED:
            outcome = await self._outcome(document, delivery.attempt)
            _ended.labels(outcome).inc()
        await delivery.done()
        with contextlib.suppress(nats.errors.Error, TimeoutError):
            await (await self._open()).delete(document.ingestion_id)

    async def _outcome(self, document: Document, attempt: int) -> str:
        """Ends the ingestion, or raises for another attempt."""
        try:
            if attempt > MAX_ATTEMPTS:
                raise MeshError(Code.INTERNAL, "The process ended at each attempt.")
            count = await self._indexer.index(document, await self._content(document))
        except Superseded:
            await self._library.fail(document.ingestion_id, "A later version came first.")
            return "superseded"
        except MeshError as error:
            log.info("ingestion %s failed: %s", document.ingestion_id, error.message)
            await self._library.fail(document.ingestion_id, error.message)
            return "failed"
        except Exception:
            if attempt < MAX_ATTEMPTS:
                raise
            log.exception("gave up ingestion %s", document.ingestion_id)
            await self._library.fail(document.ingestion_id, "It could not be indexed.")
            return "failed"
        log.info("indexed %d passages for ingestion %s", count, document.ingestion_id)
        return "indexed"

    async def _content(self, document: Document) -> bytes:
        objects = await self._open()
        try:
            async with asyncio.timeout(CONTENT_TIMEOUT_S):
                found = await objects.get(document.ingestion_id)
        except ObjectNotFoundError:
            raise invalid("content", _LOST) from None
        return found.data or b""


_LOST = "The document's content is no longer in the queue; ingest it again."


def _delay_s(attempt: int) -> float:
    return min(MAX_RETRY_DELAY_S, random.uniform(0.5, 1) * 2.0 ** (attempt - 1))


async def _next(tasks: JetStreamContext.PullSubscription) -> Delivery | None:
    try:
        (raw,) = await tasks.fetch(1, timeout=FETCH_S)
    except nats.errors.TimeoutError:
        return None
    return Delivery(raw)


@contextlib.asynccontextmanager
async def _kept(delivery: Delivery) -> AsyncIterator[None]:
    """Tells the queue that somebody works on this, for as long as the block runs."""

    async def tell() -> None:
        while True:
            await asyncio.sleep(ACK_WAIT_S / 3)
            with contextlib.suppress(nats.errors.Error):
                await delivery.working()

    telling = asyncio.create_task(tell())
    try:
        yield
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
