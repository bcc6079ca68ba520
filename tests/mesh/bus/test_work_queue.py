"""A task is done by one worker, however many there are and whichever of them die."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

import pytest

from mesh.bus import Bus, BusUnavailableError, Consumer, Delivery, UnreadableError, WorkQueue
from mesh.pb import events_pb2

LIMIT_S = 10.0


@pytest.fixture
async def queue(bus: Bus) -> AsyncIterator[WorkQueue]:
    """A work queue, made twice as each replica would, removed in the end."""
    name = uuid.uuid4().hex
    for _ in range(2):
        opened = await bus.work_queue(f"S{name}", f"w.{name}", duplicate_window_s=60)
    yield opened
    await bus._jetstream.delete_stream(f"S{name}")


async def add(queue: WorkQueue, task_id: str) -> bool:
    task = events_pb2.IngestTask(ingestion_id=task_id)
    return await queue.enqueue(task, task_id=task_id, headers={"x": "1"})


def worker(queue: WorkQueue, ack_wait_s: float = 30.0) -> AbstractAsyncContextManager[Consumer]:
    return queue.consumer("workers", ack_wait_s=ack_wait_s, max_deliver=5)


async def take(consumer: Consumer) -> Delivery:
    delivery = await consumer.next(LIMIT_S)
    assert delivery is not None
    return delivery


async def test_a_task_is_queued_once(queue: WorkQueue) -> None:
    """The same id a second time is told and not queued."""
    assert await add(queue, "a")
    assert not await add(queue, "a")
    assert await add(queue, "b")
    assert await queue.num_tasks() == 2


async def test_done_removes_a_task(queue: WorkQueue) -> None:
    """A task leaves the queue with its acknowledgement, which the server has confirmed."""
    await add(queue, "a")
    async with worker(queue) as consumer:
        delivery = await take(consumer)
        assert delivery.read(events_pb2.IngestTask).ingestion_id == "a"
        assert (delivery.attempt, delivery.headers["x"]) == (1, "1")
        assert await queue.num_tasks() == 1
        await delivery.done()
        assert await queue.num_tasks() == 0


async def test_retry_delivers_again(queue: WorkQueue) -> None:
    """A task that failed comes again and counts its attempts."""
    await add(queue, "a")
    async with worker(queue) as consumer:
        await (await take(consumer)).retry(0.01)
        again = await take(consumer)
        assert again.attempt == 2
        await again.done()


async def test_a_worker_that_dies_loses_no_task(queue: WorkQueue) -> None:
    """Without an answer in time the task goes to another replica; `extend` puts that off."""
    await add(queue, "a")
    async with worker(queue, 0.5) as first, worker(queue, 0.5) as second:
        await (await take(first)).extend()
        again = await take(second)
        assert again.attempt == 2
        await again.done()
        assert await queue.num_tasks() == 0


async def test_a_task_in_progress_is_kept(queue: WorkQueue) -> None:
    """Inside `extended` no other worker gets the task, however long it takes."""
    await add(queue, "a")
    async with worker(queue, 0.5) as first, worker(queue, 0.5) as second:
        delivery = await take(first)
        async with delivery.extended(0.1):
            assert await second.next(1.2) is None
        await delivery.done()


async def test_a_delivery_outlives_its_consumer(queue: WorkQueue) -> None:
    """What was taken can still be ended after the worker stopped taking more."""
    await add(queue, "a")
    async with worker(queue) as consumer:
        delivery = await take(consumer)
    await delivery.done()
    assert await queue.num_tasks() == 0


async def test_giving_up_removes_a_task(queue: WorkQueue) -> None:
    """A task that can never succeed is not delivered again."""
    await add(queue, "a")
    async with worker(queue, 0.2) as consumer:
        await (await take(consumer)).give_up()
        assert await consumer.next(0.5) is None


async def test_a_task_of_another_contract_is_unreadable(queue: WorkQueue) -> None:
    """Its worker learns so when it reads it, and may give it up."""
    await queue._jetstream.publish(queue._subject, b"\xff\xff")
    async with worker(queue) as consumer:
        delivery = await take(consumer)
        with pytest.raises(UnreadableError):
            delivery.read(events_pb2.IngestTask)
        await delivery.give_up()


async def test_without_a_stream_queueing_is_unavailable(bus: Bus) -> None:
    """A queue whose stream is gone refuses tasks with an error of the mesh."""
    name = uuid.uuid4().hex
    queue = await bus.work_queue(f"S{name}", f"w.{name}", duplicate_window_s=60)
    await bus._jetstream.delete_stream(f"S{name}")
    with pytest.raises(BusUnavailableError):
        await add(queue, "x")
    with pytest.raises(BusUnavailableError):
        await queue.num_tasks()


async def test_a_closed_connection_is_unavailable(nats_url: str) -> None:
    """Every end of a task says so; leaving the consumer says nothing."""
    bus = await Bus.connect(nats_url, "test")
    name = uuid.uuid4().hex
    queue = await bus.work_queue(f"S{name}", f"w.{name}", duplicate_window_s=60)
    await add(queue, "a")
    async with worker(queue) as consumer:
        delivery = await take(consumer)
        await bus._jetstream.delete_stream(f"S{name}")
        await bus._client.close()
        for end in (delivery.done(), delivery.retry(0), delivery.give_up(), consumer.next(1)):
            with pytest.raises(BusUnavailableError):
                async with asyncio.timeout(LIMIT_S):
                    await end
