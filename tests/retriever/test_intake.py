"""A document that was accepted is indexed once, whatever breaks on the way."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import numpy as np
import pytest
from numpy.typing import NDArray

from mesh.bus import Blobs, Bus, BusUnavailableError, Delivery, WorkQueue
from mesh.bus.subjects import INGEST, INGEST_BUCKET, INGEST_STREAM
from mesh.pb.events_pb2 import IngestTask
from services.retriever import intake as under_test
from services.retriever.document import Document, State, Status
from services.retriever.embed import Embedder
from services.retriever.ingest import Indexer
from services.retriever.intake import Intake
from services.retriever.library import Library
from tests.retriever.parts import a_document, count_words, until

CONTENT = b"The owl sleeps by day. The fox hunts by night."


@asynccontextmanager
async def running(intake: Intake) -> AsyncIterator[None]:
    task = asyncio.create_task(intake.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def ended(library: Library, ingestion_id: str) -> Status:
    async def is_over() -> bool:
        status = await library.status(ingestion_id)
        return status is not None and status.state is not State.QUEUED

    await until(is_over)
    status = await library.status(ingestion_id)
    assert status is not None
    return status


async def ids(library: Library) -> list[str]:
    return [h.passage.id for h in await library.search("docs", count_words(["owl fox"])[0], 9)]


@pytest.fixture
def intake(bus: Bus, library: Library, embedder: Embedder) -> Intake:
    return Intake(bus, library, Indexer(library, embedder, 60, 0), workers=2)


async def _queue(bus: Bus) -> WorkQueue:
    return await bus.work_queue(INGEST_STREAM, INGEST, duplicate_window_s=60)


async def _contents(bus: Bus) -> Blobs:
    return await bus.blobs(INGEST_BUCKET, ttl_s=60)


async def _no_task(bus: Bus) -> bool:
    return await (await _queue(bus)).num_tasks() == 0


async def _no_content(bus: Bus, ingestion_id: str) -> bool:
    return not await (await _contents(bus)).exists(ingestion_id)


async def test_a_document_goes_through(bus: Bus, library: Library, intake: Intake) -> None:
    """Queued, indexed, found; afterwards neither task nor content remains."""
    document = a_document("i1")
    await intake.submit(document, CONTENT, {})
    assert await library.status("i1") == Status(State.QUEUED, 0, "")
    async with running(intake):
        assert await ended(library, "i1") == Status(State.INDEXED, 1, "")
        assert await ids(library) == ["a.txt-v1-0"]
        await until(lambda: _no_task(bus))
        await until(lambda: _no_content(bus, "i1"))


async def test_a_large_document_fits(library: Library, intake: Intake) -> None:
    """Content larger than the server's largest message goes through the object store."""
    await intake.submit(
        a_document("i1", media_type="text/html"), b"<!--" + b"x" * 9_000_000 + b"-->owl", {}
    )
    async with running(intake):
        assert (await ended(library, "i1")).state is State.INDEXED


async def test_a_crash_before_the_ack_indexes_once(
    library: Library, intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task comes again and finds its work done."""
    done, acks = Delivery.done, []

    async def crash_once(self: Delivery) -> None:
        acks.append(self.attempt)
        if len(acks) == 1:
            raise ConnectionError
        await done(self)

    monkeypatch.setattr(Delivery, "done", crash_once)
    await intake.submit(a_document("i1"), CONTENT, {})
    async with running(intake):

        async def acked_twice() -> bool:
            return len(acks) == 2

        await until(acked_twice)
        assert acks == [1, 2]
        assert await ids(library) == ["a.txt-v1-0"]


async def test_a_crash_before_the_commit_tries_again(bus: Bus, library: Library) -> None:
    """A fault of the moment delays a document and no more."""
    calls = 0

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise OSError("a fault of the moment")
        return count_words(texts)

    async with Embedder(encode) as embedder:
        intake = Intake(bus, library, Indexer(library, embedder, 60, 0), workers=1)
        await intake.submit(a_document("i1"), CONTENT, {})
        async with running(intake):
            assert (await ended(library, "i1")).state is State.INDEXED
    assert calls == 2
    assert await ids(library) == ["a.txt-v1-0"]


async def test_a_bus_that_fails_for_a_moment_fails_no_document(
    library: Library, intake: Intake, monkeypatch: pytest.MonkeyPatch
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
    await intake.submit(a_document("i1"), CONTENT, {})
    async with running(intake):
        assert (await ended(library, "i1")).state is State.INDEXED
    assert calls == 2


async def test_a_process_that_is_stopped_hands_the_task_back(
    bus: Bus, library: Library, intake: Intake
) -> None:
    """The next process takes it at once, not after the wait for an ack."""
    started, never = asyncio.Event(), asyncio.Event()

    class Stuck(Indexer):
        async def index(self, document: Document, content: bytes) -> int:
            started.set()
            await never.wait()
            return 0

    await intake.submit(a_document("i1"), CONTENT, {})
    async with Embedder(count_words) as embedder, asyncio.timeout(under_test.ACK_WAIT_S / 2):
        async with running(Intake(bus, library, Stuck(library, embedder, 60, 0), 1)):
            await started.wait()
        async with running(intake):
            assert (await ended(library, "i1")).state is State.INDEXED


async def test_a_crash_before_the_task_is_queued_loses_nothing(
    bus: Bus, library: Library, intake: Intake
) -> None:
    """What was recorded with its content is queued by the next process."""
    await intake.resume()
    await (await _contents(bus)).put("i1", CONTENT)
    await library.queue(a_document("i1"))
    await library.queue(a_document("i2", source="lost.txt"))
    async with running(intake):
        assert (await ended(library, "i1")).state is State.INDEXED
        lost = await ended(library, "i2")
    assert lost.state is State.FAILED
    assert "ingest it again" in lost.error


async def test_a_task_delivered_too_often_fails(
    library: Library, intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A document that ends the process each time is given up, in words."""
    monkeypatch.setattr(under_test, "MAX_ATTEMPTS", 0)
    await intake.submit(a_document("i1"), CONTENT, {})
    async with running(intake):
        assert "process ended" in (await ended(library, "i1")).error


async def test_a_bad_document_fails_and_leaves_the_queue(
    bus: Bus, library: Library, intake: Intake
) -> None:
    """Its owner learns why, and the next document is not held up."""
    await intake.submit(a_document("i1", media_type="application/pdf"), b"%PDF-1.4", {})
    await intake.submit(a_document("i2", source="good.txt"), CONTENT, {})
    async with running(intake):
        failed = await ended(library, "i1")
        assert failed.state is State.FAILED
        assert "broken" in failed.error
        assert (await ended(library, "i2")).state is State.INDEXED
        await until(lambda: _no_task(bus))


async def test_tasks_of_another_contract_are_dropped(
    bus: Bus, library: Library, intake: Intake
) -> None:
    """A message that cannot be read does not come again."""
    await intake.resume()
    await bus._jetstream.publish(INGEST, b"\xff\xff")
    await (await _queue(bus)).enqueue(IngestTask(ingestion_id="gone"), task_id="gone", headers={})
    async with running(intake):
        await until(lambda: _no_task(bus))
        assert (await ended(library, "gone")).state is State.FAILED


async def test_a_store_that_was_lost_learns_of_queued_tasks(
    bus: Bus, library: Library, intake: Intake
) -> None:
    """Tasks in the queue are enough to index the documents."""
    await intake.resume()
    await (await _contents(bus)).put("i1", CONTENT)
    task = IngestTask(
        ingestion_id="i1",
        document_id="a.txt-v1",
        collection="docs",
        source="a.txt",
        media_type="text/plain",
    )
    await (await _queue(bus)).enqueue(task, task_id="i1", headers={})
    async with running(intake):
        assert (await ended(library, "i1")).state is State.INDEXED
