"""A document that was accepted is indexed once, whatever breaks on the way."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mesh.bus import Blobs, Bus, BusUnavailableError, Delivery, WorkQueue
from mesh.bus.subjects import INGEST, INGEST_BUCKET, INGEST_STREAM
from mesh.pb.events_pb2 import IngestTask
from services.retriever import ingest_queue as under_test
from services.retriever.collections_store import CollectionsStore
from services.retriever.document import Document, State, Status
from services.retriever.encoder_batcher import EncoderBatcher
from services.retriever.indexer import Indexer
from services.retriever.ingest_queue import IngestQueue
from services.retriever.store import DELETED
from tests.retriever.parts import WordTokenizer, a_document, count_tokens, count_words, until

CONTENT = b"The owl sleeps by day. The fox hunts by night."


@asynccontextmanager
async def running(ingest_queue: IngestQueue) -> AsyncIterator[None]:
    task = asyncio.create_task(ingest_queue.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def ended(collections: CollectionsStore, ingestion_id: str) -> Status:
    async def is_over() -> bool:
        status = await collections.status(ingestion_id)
        return status is not None and status.state is not State.QUEUED

    await until(is_over)
    status = await collections.status(ingestion_id)
    assert status is not None
    return status


async def ids(collections: CollectionsStore) -> list[str]:
    return [h.passage.id for h in await collections.search("docs", count_words(["owl fox"])[0], 9)]


def an_indexer(collections: CollectionsStore, batcher: EncoderBatcher) -> Indexer:
    """One that counts words."""
    return Indexer(collections, batcher, WordTokenizer(), 60, 0)


@pytest.fixture
def ingest_queue(bus: Bus, collections: CollectionsStore, batcher: EncoderBatcher) -> IngestQueue:
    return IngestQueue(bus, collections, an_indexer(collections, batcher), workers=2)


async def _queue(bus: Bus) -> WorkQueue:
    return await bus.work_queue(INGEST_STREAM, INGEST, duplicate_window_s=60)


async def _contents(bus: Bus) -> Blobs:
    return await bus.blobs(INGEST_BUCKET, ttl_s=60)


async def _no_task(bus: Bus) -> bool:
    return await (await _queue(bus)).num_tasks() == 0


async def _no_content(bus: Bus, ingestion_id: str) -> bool:
    return not await (await _contents(bus)).exists(ingestion_id)


async def test_a_document_goes_through(
    bus: Bus, collections: CollectionsStore, ingest_queue: IngestQueue
) -> None:
    """Queued, indexed, found; afterwards neither task nor content remains."""
    document = a_document("i1")
    await ingest_queue.submit(document, CONTENT, {})
    assert await collections.status("i1") == Status(State.QUEUED, 0, "")
    async with running(ingest_queue):
        assert await ended(collections, "i1") == Status(State.INDEXED, 1, "")
        assert await ids(collections) == ["a.txt-v1-0"]
        await until(lambda: _no_task(bus))
        await until(lambda: _no_content(bus, "i1"))


async def test_a_large_document_fits(
    collections: CollectionsStore, ingest_queue: IngestQueue
) -> None:
    """Content larger than the server's largest message goes through the object store."""
    await ingest_queue.submit(
        a_document("i1", media_type="text/html"), b"<!--" + b"x" * 9_000_000 + b"-->owl", {}
    )
    async with running(ingest_queue):
        assert (await ended(collections, "i1")).state is State.INDEXED


async def test_a_crash_before_the_ack_indexes_once(
    collections: CollectionsStore, ingest_queue: IngestQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task comes again and finds its work done."""
    done, acks = Delivery.done, []

    async def crash_once(self: Delivery) -> None:
        acks.append(self.attempt)
        if len(acks) == 1:
            raise ConnectionError
        await done(self)

    monkeypatch.setattr(Delivery, "done", crash_once)
    await ingest_queue.submit(a_document("i1"), CONTENT, {})
    async with running(ingest_queue):

        async def acked_twice() -> bool:
            return len(acks) == 2

        await until(acked_twice)
        assert acks == [1, 2]
        assert await ids(collections) == ["a.txt-v1-0"]


async def test_a_crash_before_the_commit_tries_again(
    bus: Bus, collections: CollectionsStore
) -> None:
    """A fault of the moment delays a document and no more."""
    calls = 0

    def encode(texts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise OSError("a fault of the moment")
        return count_tokens(texts)

    async with EncoderBatcher(encode) as batcher:
        ingest_queue = IngestQueue(bus, collections, an_indexer(collections, batcher), workers=1)
        await ingest_queue.submit(a_document("i1"), CONTENT, {})
        async with running(ingest_queue):
            assert (await ended(collections, "i1")).state is State.INDEXED
    assert calls == 2
    assert await ids(collections) == ["a.txt-v1-0"]


async def test_a_bus_that_fails_for_a_moment_fails_no_document(
    collections: CollectionsStore, ingest_queue: IngestQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The content that could not be fetched is fetched at the next attempt."""
    get, calls = Blobs.get, 0

    async def away_once(self: Blobs, name: str) -> bytes:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise BusUnavailableError
        return await get(self, name)

    monkeypatch.setattr(Blobs, "get", away_once)
    await ingest_queue.submit(a_document("i1"), CONTENT, {})
    async with running(ingest_queue):
        assert (await ended(collections, "i1")).state is State.INDEXED
    assert calls == 2


async def test_a_process_that_is_stopped_hands_the_task_back(
    bus: Bus, collections: CollectionsStore, ingest_queue: IngestQueue
) -> None:
    """The next process takes it at once, not after the wait for an ack."""
    started, never = asyncio.Event(), asyncio.Event()

    class Stuck(Indexer):
        async def index(self, document: Document, content: bytes) -> int:
            started.set()
            await never.wait()
            return 0

    await ingest_queue.submit(a_document("i1"), CONTENT, {})
    async with EncoderBatcher(count_tokens) as batcher, asyncio.timeout(under_test.ACK_WAIT_S / 2):
        async with running(
            IngestQueue(bus, collections, Stuck(collections, batcher, WordTokenizer(), 60, 0), 1)
        ):
            await started.wait()
        async with running(ingest_queue):
            assert (await ended(collections, "i1")).state is State.INDEXED


async def test_a_crash_before_the_task_is_queued_loses_nothing(
    bus: Bus, collections: CollectionsStore, ingest_queue: IngestQueue
) -> None:
    """What was recorded with its content is queued by the next process."""
    await ingest_queue.resume()
    await (await _contents(bus)).put("i1", CONTENT)
    await collections.queue(a_document("i1"))
    await collections.queue(a_document("i2", source="lost.txt"))
    async with running(ingest_queue):
        assert (await ended(collections, "i1")).state is State.INDEXED
        lost = await ended(collections, "i2")
    assert lost.state is State.FAILED
    assert "ingest it again" in lost.error


async def test_a_bus_that_goes_away_while_resuming_is_waited_for(
    bus: Bus,
    collections: CollectionsStore,
    ingest_queue: IngestQueue,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was recorded is queued once the bus is back."""
    enqueue, calls = WorkQueue.enqueue, 0

    async def away_once(self: WorkQueue, *args: Any, **kwargs: Any) -> bool:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise BusUnavailableError
        return await enqueue(self, *args, **kwargs)

    monkeypatch.setattr(WorkQueue, "enqueue", away_once)
    await (await _contents(bus)).put("i1", CONTENT)
    await collections.queue(a_document("i1"))
    async with running(ingest_queue):
        assert (await ended(collections, "i1")).state is State.INDEXED
    assert calls == 2


async def test_a_task_delivered_too_often_fails(
    collections: CollectionsStore, ingest_queue: IngestQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A document that ends the process each time is given up, in words."""
    monkeypatch.setattr(under_test, "MAX_ATTEMPTS", 0)
    await ingest_queue.submit(a_document("i1"), CONTENT, {})
    async with running(ingest_queue):
        assert "process ended" in (await ended(collections, "i1")).error


async def test_a_bad_document_fails_and_leaves_the_queue(
    bus: Bus, collections: CollectionsStore, ingest_queue: IngestQueue
) -> None:
    """Its owner learns why, and the next document is not held up."""
    await ingest_queue.submit(a_document("i1", media_type="application/pdf"), b"%PDF-1.4", {})
    await ingest_queue.submit(a_document("i2", source="good.txt"), CONTENT, {})
    async with running(ingest_queue):
        failed = await ended(collections, "i1")
        assert failed.state is State.FAILED
        assert "broken" in failed.error
        assert (await ended(collections, "i2")).state is State.INDEXED
        await until(lambda: _no_task(bus))


async def test_tasks_of_another_contract_are_dropped(
    bus: Bus, collections: CollectionsStore, ingest_queue: IngestQueue
) -> None:
    """A message that cannot be read does not come again."""
    await ingest_queue.resume()
    await bus._jetstream.publish(INGEST, b"\xff\xff")
    await (await _queue(bus)).enqueue(IngestTask(ingestion_id="gone"), task_id="gone", headers={})
    async with running(ingest_queue):
        await until(lambda: _no_task(bus))
        assert (await ended(collections, "gone")).state is State.FAILED


async def test_a_store_that_was_lost_learns_of_queued_tasks(
    bus: Bus, collections: CollectionsStore, ingest_queue: IngestQueue
) -> None:
    """Tasks in the queue are enough to index the documents."""
    await ingest_queue.resume()
    await (await _contents(bus)).put("i1", CONTENT)
    task = IngestTask(
        ingestion_id="i1",
        document_id="a.txt-v1",
        collection="docs",
        source="a.txt",
        media_type="text/plain",
    )
    await (await _queue(bus)).enqueue(task, task_id="i1", headers={})
    async with running(ingest_queue):
        assert (await ended(collections, "i1")).state is State.INDEXED


async def test_a_deletion_comes_before_what_was_queued(
    bus: Bus, collections: CollectionsStore, ingest_queue: IngestQueue
) -> None:
    """An earlier ingestion does not bring a deleted document back; a later one does."""
    await ingest_queue.submit(a_document("i1"), CONTENT, {})
    assert await collections.delete("docs", source="a.txt") == "a.txt-v1"
    await ingest_queue.submit(a_document("i2", source="b.txt"), CONTENT, {})
    async with running(ingest_queue):
        assert (await ended(collections, "i2")).state is State.INDEXED
        status = await ended(collections, "i1")
        assert (status.state, status.error) == (State.FAILED, DELETED)
        assert [summary.documents for summary in collections.summaries()] == [1]
        await ingest_queue.submit(a_document("i3"), CONTENT, {})
        assert (await ended(collections, "i3")).state is State.INDEXED
    assert await collections.delete_collection("docs") == 2
    assert collections.summaries() == []
