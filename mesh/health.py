"""Readiness: the and of all pings, each named and limited in time.

`python -m mesh.health ADDRESS` asks a gRPC service, `python -m mesh.health URL` an HTTP one; it
exits with 0 when that is ready. Containers use it as their health check.
"""

import asyncio
import http.client
import logging
import sys
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

logger = logging.getLogger(__name__)

Ping = Callable[[], Awaitable[None]]
Context = grpc.aio.ServicerContext[Any, Any]
PING_TIMEOUT_S = 2.0
WATCH_INTERVAL_S = 1.0


class Checks:
    """Named pings; a ping raises when its resource cannot be used."""

    def __init__(self) -> None:
        self._pings: dict[str, Ping] = {}

    def add(self, name: str, ping: Ping) -> None:
        """Register a ping under a name that operators will read."""
        assert name not in self._pings, f"two checks named {name}. This is a bug."
        self._pings[name] = ping

    async def failing(self) -> dict[str, str]:
        """Name to reason of what is not ready now; empty when all is well."""
        results = await asyncio.gather(*(self._try(ping) for ping in self._pings.values()))
        return {
            name: result
            for name, result in zip(self._pings, results, strict=True)
            if result is not None
        }

    async def _try(self, ping: Ping) -> str | None:
        try:
            async with asyncio.timeout(PING_TIMEOUT_S):
                await ping()
        except TimeoutError:
            return "timed out"
        except Exception as error:
            logger.debug("ping failed", exc_info=True)
            return type(error).__name__
        return None


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # untyped package
    """gRPC's standard health service over the same checks, for every service name."""

    def __init__(self, checks: Checks) -> None:
        self._checks = checks

    async def Check(
        self,
        request: health_pb2.HealthCheckRequest,
        context: Context,
    ) -> health_pb2.HealthCheckResponse:
        """Return the state now."""
        return health_pb2.HealthCheckResponse(status=await self._status())

    async def Watch(
        self,
        request: health_pb2.HealthCheckRequest,
        context: Context,
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Yield the state now and each change of it."""
        last = None
        while True:
            status = await self._status()
            if status != last:
                yield health_pb2.HealthCheckResponse(status=status)
                last = status
            await asyncio.sleep(WATCH_INTERVAL_S)

    async def _status(self) -> "health_pb2.HealthCheckResponse.ServingStatus":
        response = health_pb2.HealthCheckResponse
        return response.NOT_SERVING if await self._checks.failing() else response.SERVING


def probe(target: str, timeout_s: float = 3.0) -> bool:
    """Return whether the service at a gRPC address or an HTTP URL says that it is ready.

    It is asked directly: a proxy that the environment names is none of its business.
    """
    if "://" in target:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(target, timeout=timeout_s) as response:
                return bool(response.status == 200)
        except (OSError, http.client.HTTPException):
            return False
    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=timeout_s
            )
        except grpc.RpcError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    sys.exit(0 if probe(sys.argv[1]) else 1)
