"""NATS through `mesh.bus`: versions, bounds, reconnection and work queues, on a real server."""

import asyncio
import subprocess
import uuid
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import nats.errors
import pytest
from prometheus_client import REGISTRY

from cli import servers
from mesh import bus as subjects
from mesh.bus import Bus, Delivery, UnreadableError, decode
from mesh.errors import Code, MeshError
from mesh.pb import events_pb2
from tests.waiting import until


@pytest.fixture
async def bus(nats_url: str) -> AsyncIterator[Bus]:
    """A connection that is closed in the end, twice."""
    connected = await Bus.connect(nats_url, "test")
    yield connected
    await connected.close()
    await connected.close()


def unique(prefix: str) -> str:
    return f"{prefix}.{uuid.uuid4().hex}"


def refused(subject: str) -> float:
    label = {"subject": subject.rsplit(".", 1)[0]}
    return REGISTRY.get_sample_value("infermesh_bus_refused_total", label) or 0.0


async def hellos(bus: Bus, subject: str) -> list[tuple[str, Mapping[str, str]]]:
    got: list[tuple[str, Mapping[str, str]]] = []
    await bus.subscribe(
        subject, events_pb2.Hello, lambda m, headers: got.append((m.gateway_id, headers))
    )
    await bus._client.flush(10)
    return got


async def test_what_is_published_arrives_in_order(bus: Bus) -> None:
    """Messages arrive with their headers, in order; the version is set by `publish`."""
    subject = unique("t")
    got = await hellos(bus, subject)
    for n in range(50):
        await bus.publish(subject, events_pb2.Hello(gateway_id=str(n)), headers={"x": str(n)})
    await until(lambda: len(got) == 50)
    assert [name for name, _ in got] == [str(n) for n in range(50)]
    assert got[7][1]["x"] == "7"


async def test_handlers_may_wait_and_may_fail(bus: Bus) -> None:
    """Messages are handled one after the other; a handler's fault costs its message only."""
    subject, seen, inside = unique("t"), [], [0]

    async def handle(message: events_pb2.Hello, headers: Mapping[str, str]) -> None:
        inside[0] += 1
        assert inside[0] == 1
        await asyncio.sleep(0)
        inside[0] -= 1
        if message.gateway_id == "1":
            raise ValueError("broken handler")
        seen.append(message.gateway_id)

    await bus.subscribe(subject, events_pb2.Hello, handle)
    for n in range(3):
        await bus.publish(subject, events_pb2.Hello(gateway_id=str(n)))
    await until(lambda: seen == ["0", "2"])


async def test_what_cannot_be_read_is_dropped_and_counted(bus: Bus) -> None:
    """Bytes of no message, of a newer version or of none never reach the handler."""
    subject = unique("t")
    got, before = await hellos(bus, subject), refused(subject)
    for data in (
        b"\xff\xff\xff",
        events_pb2.Hello(version=subjects.VERSION + 1, gateway_id="new").SerializeToString(),
        events_pb2.Hello(gateway_id="none").SerializeToString(),
    ):
        await bus._client.publish(subject, data)
    await bus.publish(subject, events_pb2.Hello(gateway_id="good"))
    await until(lambda: got)
    assert [name for name, _ in got] == ["good"]
    assert refused(subject) == before + 3


def test_decode_keeps_what_it_does_not_know() -> None:
    """A field of a later minor version passes through a reader that re-sends the message."""
    data = events_pb2.Hello(version=1, gateway_id="g").SerializeToString() + b"\xfa\x06\x01x"
    assert decode(events_pb2.Hello, data).SerializeToString() == data
    with pytest.raises(UnreadableError):
        decode(events_pb2.Hello, b"")


async def test_nobody_listens(bus: Bus) -> None:
    """The server says so on the subject that was given, and only then."""
    gateway, told = uuid.uuid4().hex, []
    await bus.on_undelivered(subjects.undelivered(gateway, "*"), told.append)
    heard = await hellos(bus, subjects.commands("there"))
    for replica in ("gone", "there"):
        await bus.publish(
            subjects.commands(replica),
            events_pb2.Hello(gateway_id="g"),
            undelivered=subjects.undelivered(gateway, replica),
        )
    await until(lambda: told and heard)
    assert told == ["gone"]


async def test_subjects_are_apart() -> None:
    """Two gateways or replicas never share a subject."""
    built = [
        subjects.commands("a"),
        subjects.commands("b"),
        subjects.frames("a"),
        subjects.undelivered("a", "b"),
        subjects.undelivered("b", "a"),
        subjects.ANNOUNCE,
        subjects.HELLO,
        subjects.INGEST,
    ]
    assert len(set(built)) == len(built)


async def test_a_closed_bus_is_unavailable(nats_url: str) -> None:
    """Publishing on a closed connection is an error of the mesh, as is a ping."""
    closed = await Bus.connect(nats_url, "test")
    await closed.close()
    with pytest.raises(MeshError) as error:
        await closed.publish("t", events_pb2.Hello())
    assert error.value.code is Code.UNAVAILABLE
    with pytest.raises(MeshError):
        await closed.ping()


async def test_no_server_is_told_within_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting to nobody gives up."""
    monkeypatch.setattr(subjects, "CONNECT_TIMEOUT_S", 0.3)
    with pytest.raises(TimeoutError):
        await Bus.connect("nats://127.0.0.1:1", "test")


async def test_a_server_that_restarts_is_found_again(tmp_path: Path) -> None:
    """Subscriptions outlive the server, and what was published meanwhile arrives."""
    port = servers.free_port()
    command, environ = servers.nats_command(port, tmp_path)

    def start() -> "subprocess.Popen[bytes]":
        return subprocess.Popen(command, env=environ, stderr=subprocess.DEVNULL)

    process = start()
    try:
        bus = await Bus.connect(f"nats://127.0.0.1:{port}", "test")
        got = await hellos(bus, "t")
        process.kill()
        process.wait(10)
        await until(lambda: not bus._client.is_connected)
        with pytest.raises(MeshError):
            await bus.ping()
        await bus.publish("t", events_pb2.Hello(gateway_id="meanwhile"))
        process = start()
        await until(lambda: bus._client.is_connected, 20)
        await bus.publish("t", events_pb2.Hello(gateway_id="after"))
        await until(lambda: [name for name, _ in got] == ["meanwhile", "after"])
        await bus.close()
    finally:
        process.kill()
        process.wait(10)


class Work:
    """One work queue of its own."""

    def __init__(self, bus: Bus, stream: str, subject: str) -> None:
        self.bus = bus
        self.stream = stream
        self.subject = subject

    async def add(self, task_id: str) -> bool:
        task = events_pb2.IngestTask(ingestion_id=task_id)
        return await self.bus.enqueue(self.subject, task, task_id=task_id, headers={"x": "1"})

    async def consumer(self, ack_wait_s: float = 30.0) -> Any:
        return await self.bus.consumer(
            self.stream, self.subject, "workers", ack_wait_s=ack_wait_s, max_deliver=5
        )

    async def left(self) -> int:
        return int((await self.bus._jetstream.stream_info(self.stream)).state.messages)


@pytest.fixture
async def work(bus: Bus) -> AsyncIterator[Work]:
    """A work queue, made twice as each replica would, removed in the end."""
    name = uuid.uuid4().hex
    made = Work(bus, f"S{name}", f"w.{name}")
    for _ in range(2):
        await bus.work_queue(made.stream, made.subject, duplicate_window_s=60)
    yield made
    await bus._jetstream.delete_stream(made.stream)


async def fetch(consumer: Any) -> Delivery:
    (raw,) = await consumer.fetch(1, timeout=10)
    return Delivery(raw)


async def test_a_task_is_queued_once(work: Work) -> None:
    """The same id a second time is told and not queued."""
    assert await work.add("a")
    assert not await work.add("a")
    assert await work.add("b")
    assert await work.left() == 2


async def test_done_removes_a_task(work: Work) -> None:
    """A task leaves the queue with its acknowledgement, which the server has confirmed."""
    await work.add("a")
    delivery = await fetch(await work.consumer())
    assert decode(events_pb2.IngestTask, delivery.data).ingestion_id == "a"
    assert (delivery.attempt, delivery.headers["x"]) == (1, "1")
    assert await work.left() == 1
    await delivery.done()
    assert await work.left() == 0


async def test_retry_delivers_again(work: Work) -> None:
    """A task that failed comes again and counts its attempts."""
    await work.add("a")
    consumer = await work.consumer()
    await (await fetch(consumer)).retry(0.01)
    again = await fetch(consumer)
    assert again.attempt == 2
    await again.done()


async def test_a_worker_that_dies_loses_no_task(work: Work) -> None:
    """Without an answer in time the task goes to another replica; `working` puts that off."""
    await work.add("a")
    first, second = await work.consumer(0.5), await work.consumer(0.5)
    await (await fetch(first)).working()
    again = await fetch(second)
    assert again.attempt == 2
    await again.done()
    assert await work.left() == 0


async def test_giving_up_removes_a_task(work: Work) -> None:
    """A task that can never succeed is not delivered again."""
    await work.add("a")
    consumer = await work.consumer(0.2)
    await (await fetch(consumer)).give_up()
    with pytest.raises(nats.errors.TimeoutError):
        await consumer.fetch(1, timeout=0.5)


async def test_without_a_stream_queueing_is_unavailable(bus: Bus) -> None:
    """A queue that nobody made refuses tasks with an error of the mesh."""
    task = events_pb2.IngestTask(ingestion_id="x")
    with pytest.raises(MeshError) as error:
        await bus.enqueue(unique("none"), task, task_id="x", headers={})
    assert error.value.code is Code.UNAVAILABLE


async def test_payloads_and_keys(bus: Bus) -> None:
    """Buckets are made when first used and found again later."""
    name = uuid.uuid4().hex
    for _ in range(2):
        objects = await bus.objects(name, ttl_s=60)
        keys = await bus.keys(name, ttl_s=60)
    await objects.put("doc", b"x" * 300_000)
    assert (await objects.get("doc")).data == b"x" * 300_000
    await keys.put("k", b"v")
    assert (await keys.get("k")).value == b"v"
    await bus._jetstream.delete_object_store(name)
    await bus._jetstream.delete_key_value(name)
