"""What operators ask: is the process alive, can it work, what does it count."""

import asyncio

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from mesh.errors import MeshError
from mesh.health import Checks, Ping


class OptionalService:
    """A service that must have been there once; its later failures only degrade the gateway."""

    def __init__(self, ping: Ping) -> None:
        self._ping = ping
        self._seen = False
        self.failing = False

    async def ping(self) -> None:
        """Raise until the service was seen ready."""
        try:
            await self._ping()
        except MeshError:
            self.failing = True
            if not self._seen:
                raise
        else:
            self._seen = True
            self.failing = False


class Probes:
    """Answers without a key. `optional` services are listed as degraded while they fail."""

    def __init__(self, checks: Checks, optional: dict[str, OptionalService]) -> None:
        self._checks = checks
        self._optional = optional

    async def live(self, request: web.Request) -> web.Response:
        """Answer while the loop does."""
        return web.json_response({"status": "alive"})

    async def ready(self, request: web.Request) -> web.Response:
        """Answer 200 when requests can be answered; else name what fails."""
        failing = await self._checks.failing()
        degraded = [
            name
            for name, service in self._optional.items()
            if service.failing and name not in failing
        ]
        status = "not ready" if failing else "degraded" if degraded else "ready"
        body = {"status": status, "failing": failing, "degraded": degraded}
        return web.json_response(body, status=503 if failing else 200)

    async def metrics(self, request: web.Request) -> web.Response:
        """Answer with Prometheus' text."""
        text = await asyncio.to_thread(generate_latest)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})
