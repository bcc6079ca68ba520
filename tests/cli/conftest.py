"""Small real processes to supervise, and a small gateway to talk to."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from cli.replica import Replica, Service

LIMIT_S = 15.0
Reply = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Reports:
    """Every report of one or several replicas, in order."""

    entries: list[tuple[str, str, str]] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def __call__(self, replica: Replica, detail: str) -> None:
        self.entries.append((replica.service.label, str(replica.state), detail))
        self._news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Returns once the condition holds; it is asked after every report."""
        async with asyncio.timeout(LIMIT_S):
            while not condition():
                self._news.clear()
                await self._news.wait()

    def of(self, label: str) -> list[str]:
        """The states that one replica went through."""
        return [state for name, state, _ in self.entries if name == label]


@pytest.fixture
async def reports() -> Reports:
    """Made inside the loop that uses it."""
    return Reports()


@pytest.fixture
def child(tmp_path: Path) -> Callable[..., Service]:
    """A service that runs Python code; it is ready once it has made its file `up`."""

    def make(code: str, name: str = "child", index: int = 0) -> Service:
        up = tmp_path / f"{name}-{index}.up"
        prelude = f"import os, pathlib, signal, sys, time; up = pathlib.Path({str(up)!r})\n"
        return Service(
            name=name,
            index=index,
            command=(sys.executable, "-S", "-c", prelude + code),
            environ={**os.environ, "STOPPED": str(tmp_path / "stopped")},
            port=1,
            ready=up.exists,
        )

    return make


@dataclass
class FakeGateway:
    """Answers by path; remembers the JSON and raw bodies it was sent."""

    url: str = ""
    routes: dict[tuple[str, str], Reply] = field(default_factory=dict)
    requests: list[web.Request] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def on(self, method: str, path: str, reply: Reply) -> None:
        """Sets the reply for one path, query left out."""
        self.routes[method, path] = reply

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request."""
        self.requests.append(request)
        self.bodies.append(await request.read())
        reply = self.routes.get((request.method, request.path))
        if reply is None:
            return web.json_response({"error": {"message": "No such path."}}, status=404)
        return await reply(request)

    def chat(self, events: list[object]) -> Reply:
        """A reply that streams these events; a string is sent as it is."""

        async def reply(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            for event in events:
                text = event if isinstance(event, str) else f"data: {json.dumps(event)}\n\n"
                await response.write(text.encode())
            return response

        return reply


@pytest.fixture
async def gateway(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeGateway]:
    """A gateway on a free port that the client commands find through the environment."""
    fake = FakeGateway()
    app = web.Application(client_max_size=2**24)
    app.router.add_route("*", "/{path:.*}", fake.handle)
    async with TestServer(app) as server:
        fake.url = str(server.make_url("")).rstrip("/")
        monkeypatch.setenv("INFERMESH_URL", fake.url)
        monkeypatch.setenv("INFERMESH_API_KEY", "sk-infermesh-test")
        yield fake
