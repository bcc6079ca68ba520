"""One SSE response: opened by its first event or by its first keep-alive, closed in any case."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from mesh.errors import MeshError
from services.gateway.http import metrics, sse
from services.gateway.http.limits import HttpLimits
from services.gateway.http.middleware import CONTEXT, internal_error

logger = logging.getLogger(__name__)


class EventStream:
    """A failure before the first byte is left to the caller: it is still a plain error answer.

    Later ones become an `error_event` that ends the connection. A reader who does not read for
    `write_timeout_s` is cut off.
    """

    def __init__(
        self,
        request: web.Request,
        headers: dict[str, str],
        limits: HttpLimits,
        error_event: Callable[[MeshError], bytes],
    ) -> None:
        self._request = request
        self._keep_alive_s = limits.keep_alive_s
        self._write_timeout_s = limits.write_timeout_s
        self._error_event = error_event
        self._sent_at = time.monotonic()
        self._opening = asyncio.Lock()
        self.response = web.StreamResponse(
            headers={
                **headers,
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-cache",
                "X-Accel-Buffering": "no",
            }
        )

    async def __aenter__(self) -> Self:
        self._keeper = asyncio.create_task(self._keep_alive(), name="keep-alive")
        return self

    async def send(self, data: bytes) -> None:
        """Write events; wait while the reader is behind."""
        await self._in_time(self._write(data))
        self._sent_at = time.monotonic()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self._keeper.cancel()
        await asyncio.gather(self._keeper, return_exceptions=True)
        if not self.response.prepared:
            return False
        if error is None:
            await self._in_time(self.response.write_eof())
            return False
        if isinstance(error, ConnectionResetError) or not isinstance(error, Exception):
            return False
        await self._fail(error)
        return True

    async def _fail(self, error: Exception) -> None:
        if not isinstance(error, MeshError):
            logger.error("fault in a stream", exc_info=error)
            error = internal_error(self._request[CONTEXT])
        metrics.stream_failures.labels(error.code.name).inc()
        self.response.force_close()
        await self.send(self._error_event(error))
        await self._in_time(self.response.write_eof())

    async def _in_time(self, writing: Coroutine[Any, Any, None]) -> None:
        try:
            async with asyncio.timeout(self._write_timeout_s):
                await writing
        except TimeoutError:
            metrics.slow_readers.inc()
            self._cut()
            raise ConnectionResetError("slow reader") from None

    async def _write(self, data: bytes) -> None:
        if not self.response.prepared:
            await self._open()
        await self.response.write(data)

    async def _open(self) -> None:
        # the keep-alive may be opening it right now
        async with self._opening:
            if not self.response.prepared:
                await self.response.prepare(self._request)

    async def _keep_alive(self) -> None:
        while True:
            silent_s = time.monotonic() - self._sent_at
            if silent_s < self._keep_alive_s:
                await asyncio.sleep(self._keep_alive_s - silent_s)
                continue
            try:
                await self.send(sse.KEEP_ALIVE)
            except ConnectionResetError:
                self._cut()
                return

    def _cut(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()
