"""Readiness: checks, gRPC's health service, and the probe that containers run."""

import asyncio
import contextlib
import http.server
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh import health
from mesh.health import Checks, HealthServicer, probe

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Pings:
    """Checks whose one resource a test breaks and mends."""

    def __init__(self) -> None:
        self.broken = False
        self.checks = Checks()
        self.checks.add("bus", self._ping)

    async def _ping(self) -> None:
        if self.broken:
            raise ConnectionError("secret address")


@pytest.fixture
async def served() -> AsyncIterator[tuple[Pings, str]]:
    """The health service on a free port."""
    pings = Pings()
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(pings.checks), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield pings, f"127.0.0.1:{port}"
    await server.stop(None)


async def test_all_pings_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each failing ping is named with its class, a slow one with its time-out, never with text."""
    monkeypatch.setattr(health, "PING_TIMEOUT_S", 0.05)
    pings = Pings()

    async def slow() -> None:
        await asyncio.Event().wait()

    pings.checks.add("store", slow)
    pings.broken = True
    assert await pings.checks.failing() == {"bus": "ConnectionError", "store": "timed out"}


async def test_nothing_to_check_is_ready() -> None:
    """Without pings nothing fails."""
    assert await Checks().failing() == {}


def test_two_checks_of_one_name_are_a_bug() -> None:
    """Names are unique."""
    pings = Pings()
    with pytest.raises(AssertionError, match="bug"):
        pings.checks.add("bus", pings._ping)


async def test_check_over_grpc(served: tuple[Pings, str]) -> None:
    """Check tells the state now, for any service name."""
    pings, address = served
    async with grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for broken, expected in ((False, SERVING), (True, NOT_SERVING), (False, SERVING)):
            pings.broken = broken
            reply = await stub.Check(health_pb2.HealthCheckRequest(service="any"))
            assert reply.status == expected


async def test_watch_over_grpc(served: tuple[Pings, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Watch tells the state now and then each change, once."""
    monkeypatch.setattr(health, "WATCH_INTERVAL_S", 0.01)
    pings, address = served
    async with grpc.aio.insecure_channel(address) as channel:
        call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await call.read()).status == SERVING
        pings.broken = True
        assert (await call.read()).status == NOT_SERVING
        pings.broken = False
        assert (await call.read()).status == SERVING
        call.cancel()


async def test_probe_of_a_grpc_service(served: tuple[Pings, str]) -> None:
    """True when serving, False when not, and False where nobody listens."""
    pings, address = served
    assert await asyncio.to_thread(probe, address)
    pings.broken = True
    assert not await asyncio.to_thread(probe, address)
    assert not await asyncio.to_thread(probe, "127.0.0.1:1", 0.5)


@contextlib.contextmanager
def http_server(status: int) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/readyz"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(("status", "ready"), [(200, True), (503, False), (404, False)])
def test_probe_of_a_url(status: int, ready: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 is ready; a proxy of the environment is not asked."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with http_server(status) as url:
        assert probe(url) is ready


def test_probe_of_something_else() -> None:
    """What listens there but speaks no HTTP is not ready; no exception escapes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(b"+OK Redis\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert not probe(f"http://127.0.0.1:{port}/", 2)
        thread.join()
    assert not probe("http://127.0.0.1:1/", 0.5)


async def test_the_command_line(served: tuple[Pings, str]) -> None:
    """`python -m mesh.health` exits with 0 when ready, else with 1."""
    pings, address = served
    root = Path(__file__).parents[2]
    for broken in (False, True):
        pings.broken = broken
        command = [sys.executable, "-m", "mesh.health", address]
        run = await asyncio.to_thread(subprocess.run, command, cwd=root, timeout=30)
        assert run.returncode == int(broken)
