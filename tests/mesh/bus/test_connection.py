"""Publish and subscribe: order, versions, bounds and reconnection, on a real server."""

import asyncio
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from cli import servers
from mesh.bus import Bus, connection, subjects
from mesh.bus.messages import VERSION
from mesh.errors import Code, MeshError
from mesh.pb import events_pb2
from tests.waiting import until


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
    await bus.ping()
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
        events_pb2.Hello(version=VERSION + 1, gateway_id="new").SerializeToString(),
        events_pb2.Hello(gateway_id="none").SerializeToString(),
    ):
        await bus._client.publish(subject, data)
    await bus.publish(subject, events_pb2.Hello(gateway_id="good"))
    await until(lambda: got)
    assert [name for name, _ in got] == ["good"]
    assert refused(subject) == before + 3


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
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT_S", 0.3)
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
