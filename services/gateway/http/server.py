"""The HTTP server: aiohttp's, with our answer to what never reaches a handler.

A request that is no HTTP, is too long, or expects what we do not do is refused in the words of the
API, with an id, and counted, as any other.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import http_exceptions, web

logger = logging.getLogger(__name__)

# what a request line and a header field may have; they differ, which tells the two apart
MAX_LINE_BYTES = 8_190
MAX_FIELD_BYTES = 8_192
_TOO_MANY = "Too many headers received"

Refuse = Callable[[int], web.Response]
Handler = Callable[[Any], Awaitable[web.StreamResponse]]


class GatewayRunner(web.AppRunner):
    """Runs an application behind the outermost gate.

    `refuse` writes the answer to a request that cannot be read, by its status; `guard` surrounds
    the application's own handling of those that can.
    """

    __slots__ = ("_guard", "_options", "_refuse")

    def __init__(
        self,
        app: web.Application,
        refuse: Refuse,
        guard: Callable[[Handler], Handler],
        *,
        keepalive_timeout: float,
        shutdown_timeout: float,
    ) -> None:
        super().__init__(app, shutdown_timeout=shutdown_timeout, access_log=None)
        self._refuse = refuse
        self._guard = guard
        self._options: dict[str, Any] = {
            "access_log": None,
            "keepalive_timeout": keepalive_timeout,
            "max_line_size": MAX_LINE_BYTES,
            "max_field_size": MAX_FIELD_BYTES,
            # `body` decodes, within the limits of its route
            "auto_decompress": False,
        }

    async def _make_server(self) -> web.Server:
        plain = await super()._make_server()
        return _Server(
            self._guard(plain.request_handler),
            self._refuse,
            request_factory=plain.request_factory,
            handler_cancellation=True,
            **self._options,
        )


class _Server(web.Server):
    def __init__(self, handler: Handler, refuse: Refuse, **options: Any) -> None:
        request_factory = options.pop("request_factory")
        cancels = options.pop("handler_cancellation")
        super().__init__(
            handler, request_factory=request_factory, handler_cancellation=cancels, **options
        )
        self._refuse = refuse
        self._options = options

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, self._refuse, **self._options)


class _Connection(web.RequestHandler):
    __slots__ = ("_refuse",)

    def __init__(self, server: web.Server, refuse: Refuse, **options: Any) -> None:
        super().__init__(server, loop=server._loop, **options)
        self._refuse = refuse

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the answer to a request that was not read, or whose handling failed outside."""
        if exc is None or isinstance(exc, http_exceptions.HttpProcessingError):
            # never with the client's bytes, which may hold its key
            logger.info("refused what is no request: %s", type(exc).__name__)
        else:
            logger.error("fault around a request", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("A part of an answer is out already.")
        return self._refuse(_status(status, exc))

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Say why a connection ended; a client's broken body is no fault of ours."""
        fault = kw.get("exc_info")
        if isinstance(fault, http_exceptions.HttpProcessingError | web.RequestPayloadError):
            logger.info("connection ended: %s", type(fault).__name__)
        else:
            logger.error("fault on a connection", exc_info=fault)


def _status(status: int, exc: BaseException | None) -> int:
    if isinstance(exc, http_exceptions.LineTooLong):
        return 414 if exc.args[1] == MAX_LINE_BYTES else 431
    if isinstance(exc, http_exceptions.BadHttpMessage) and exc.message == _TOO_MANY:
        return 431
    return status
