"""What surrounds every HTTP request: id, deadline, trace, key, drain, errors, counts.

The only place where a failure becomes a status; handlers raise MeshError.
"""

import asyncio
import logging
import math
import re
import time
from collections.abc import Callable
from typing import Any

from aiohttp import typedefs, web
from opentelemetry.trace import Span, SpanKind

from mesh.context import REQUEST_ID, RequestContext
from mesh.errors import Code, MeshError, invalid, unavailable
from mesh.lifecycle import Lifecycle, State
from mesh.telemetry import span
from services.gateway.domain.request import Principal
from services.gateway.http import metrics

logger = logging.getLogger(__name__)

CONTEXT = web.RequestKey("context", RequestContext)
PRINCIPAL = web.RequestKey("principal", Principal)
STARTED = web.RequestKey("started", float)

# the caller went away: what is logged and counted in place of a status that nobody read
CLIENT_CLOSED = Code.CANCELLED.value.http
TIMEOUT_HEADER = "x-request-timeout-s"
_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class Middleware:
    """Wraps every handler, and counts the API requests that a drain waits for.

    `authenticate` returns whom the header `Authorization` stands for; `error_body` writes a
    failure in the words of the API.
    """

    def __init__(
        self,
        lifecycle: Lifecycle,
        authenticate: Callable[[str], Principal],
        error_body: Callable[[MeshError], Any],
        request_timeout_s: float,
    ) -> None:
        self._lifecycle = lifecycle
        self._authenticate = authenticate
        self._error_body = error_body
        self._timeout_s = request_timeout_s
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def drain(self) -> None:
        """Return once no API request is being answered."""
        await self._idle.wait()

    def wrap(self) -> typedefs.Middleware:
        """Return the function for `web.Application(middlewares=...)`."""

        @web.middleware
        async def surround(request: web.Request, handler: typedefs.Handler) -> web.StreamResponse:
            return await self._surround(request, handler)

        return surround

    async def _surround(
        self, request: web.Request, handler: typedefs.Handler
    ) -> web.StreamResponse:
        started = request[STARTED] = time.perf_counter()
        request[CONTEXT] = RequestContext.start(self._timeout_s, _request_id(request))
        route = _route(request)
        name = f"{request.method} {route}"
        status = CLIENT_CLOSED
        try:
            with span(name, kind=SpanKind.SERVER, carrier=request.headers) as current:
                response = await self._answered(request, handler, current)
                status = response.status
                current.set_attribute("http.response.status_code", status)
            return response
        finally:
            metrics.requests.labels(route, str(status)).inc()
            metrics.latency.labels(route).observe(time.perf_counter() - started)

    async def _answered(
        self, request: web.Request, handler: typedefs.Handler, current: Span
    ) -> web.StreamResponse:
        current.set_attribute("infermesh.request_id", request[CONTEXT].request_id)
        try:
            if not request.path.startswith("/v1/"):
                return await handler(request)
            return await self._authenticated(request, handler)
        except MeshError as error:
            return self._refusal(error)
        except web.HTTPException as answer:
            return self._reshaped(request, answer)
        except Exception as fault:
            if isinstance(fault, ConnectionResetError) and _gone(request):
                return web.Response(status=CLIENT_CLOSED)
            current.set_attribute("error.type", type(fault).__name__)
            logger.exception("fault in %s (request %s)", request.path, request[CONTEXT].request_id)
            return self._refusal(internal_error(request[CONTEXT]))

    async def _authenticated(
        self, request: web.Request, handler: typedefs.Handler
    ) -> web.StreamResponse:
        if self._lifecycle.state.value >= State.DRAINING.value:
            response = self._refusal(unavailable("This gateway is shutting down."))
            response.force_close()
            return response
        request[PRINCIPAL] = self._authenticate(request.headers.get("Authorization", ""))
        request[CONTEXT] = _with_deadline(request, self._timeout_s)
        self._count(+1)
        try:
            return await handler(request)
        finally:
            self._count(-1)

    def _refusal(self, error: MeshError) -> web.Response:
        """Return the answer that a MeshError becomes."""
        response = web.json_response(self._error_body(error), status=error.code.value.http)
        if error.code in (Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE):
            retry_after_s = 1.0 if error.retry_after_s is None else error.retry_after_s
            # the header knows whole seconds only
            response.headers["Retry-After"] = str(max(1, math.ceil(retry_after_s)))
        return response

    def _reshaped(self, request: web.Request, answer: web.HTTPException) -> web.Response:
        """Return aiohttp's own refusal in the words of the API."""
        message = {
            404: f"Unknown path: {request.method} {request.path}",
            405: f"{request.path} does not take {request.method}.",
            413: "The body is too large.",
        }.get(answer.status, answer.reason)
        error = MeshError(Code.INVALID_ARGUMENT, message)
        response = web.json_response(self._error_body(error), status=answer.status)
        if "Allow" in answer.headers:
            response.headers["Allow"] = answer.headers["Allow"]
        if answer.status == 413:
            # the rest of the body is still on its way
            response.force_close()
        return response

    def _count(self, change: int) -> None:
        self._in_flight += change
        metrics.in_flight.set(self._in_flight)
        if self._in_flight:
            self._idle.clear()
        else:
            self._idle.set()


async def add_request_id(request: web.Request, response: web.StreamResponse) -> None:
    """Say on every answer which request it is for; for `app.on_response_prepare`."""
    context = request.get(CONTEXT)
    if context is not None:
        response.headers[REQUEST_ID] = context.request_id


def internal_error(context: RequestContext) -> MeshError:
    """Return what a caller sees of a fault of ours."""
    return MeshError(Code.INTERNAL, f"Internal error. Request id: {context.request_id}")


def _gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _request_id(request: web.Request) -> str:
    given = request.headers.get(REQUEST_ID, "")
    return given if _SANE_ID.fullmatch(given) else ""


def _with_deadline(request: web.Request, limit_s: float) -> RequestContext:
    given = request.headers.get(TIMEOUT_HEADER)
    context = request[CONTEXT]
    if given is None:
        return context
    try:
        timeout_s = float(given)
    except ValueError:
        timeout_s = 0.0
    # not (a > b) also refuses NaN
    if not timeout_s > 0:
        raise invalid(TIMEOUT_HEADER, f"{TIMEOUT_HEADER} must be a positive number of seconds.")
    return RequestContext.start(min(timeout_s, limit_s), context.request_id)


def _route(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return "unmatched" if resource is None else resource.canonical
