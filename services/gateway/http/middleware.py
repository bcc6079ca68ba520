"""What surrounds every HTTP request: id, deadline, trace, key, drain, errors, counts.

The only place where a failure becomes a status; handlers raise MeshError.
"""

import asyncio
import logging
import math
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import HttpVersion11, typedefs, web
from opentelemetry.trace import Span, SpanKind

from mesh.context import REQUEST_ID, RequestContext
from mesh.errors import Code, MeshError, invalid, unavailable
from mesh.lifecycle import Lifecycle, State
from mesh.telemetry import span
from services.gateway.domain.request import Principal
from services.gateway.http import metrics
from services.gateway.http.content_coding import ACCEPTED
from services.gateway.http.cors import Cors

logger = logging.getLogger(__name__)

CONTEXT = web.RequestKey("context", RequestContext)
PRINCIPAL = web.RequestKey("principal", Principal)
STARTED = web.RequestKey("started", float)

# the caller went away: what is logged and counted in place of a status that nobody read
CLIENT_CLOSED = Code.CANCELLED.value.http
TIMEOUT_HEADER = "x-request-timeout-s"
# no more is said of a wrong key than of a missing one (RFC 6750, 3)
CHALLENGE = 'Bearer realm="infermesh"'
EXPOSED = (REQUEST_ID, "x-infermesh-cache", "Retry-After")
_REASONS = {
    413: "The body is too large.",
    414: "The request line is too long.",
    415: f"The body's Content-Encoding must be one of {ACCEPTED}, or absent.",
    417: "Only `Expect: 100-continue` can be met.",
    431: "A header field is too long, or there are too many.",
}
_UNREAD = "This is not a valid HTTP request."
Handler = Callable[[Any], Awaitable[web.StreamResponse]]
_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class Middleware:
    """Wraps every handler, and counts the API requests that a drain waits for.

    `authenticate` returns whom the header `Authorization` stands for; `error_body` writes a
    failure in the words of the API; `cors` says which pages may read answers.
    """

    def __init__(
        self,
        lifecycle: Lifecycle,
        authenticate: Callable[[str], Principal],
        error_body: Callable[[MeshError], Any],
        request_timeout_s: float,
        cors: Cors,
    ) -> None:
        self._lifecycle = lifecycle
        self._authenticate = authenticate
        self._error_body = error_body
        self._timeout_s = request_timeout_s
        self._cors = cors
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def drain(self) -> None:
        """Return once no API request is being answered."""
        await self._idle.wait()

    def unread(self, status: int) -> web.Response:
        """Return the refusal of what could not be read as a request; the connection ends."""
        context = RequestContext.start(self._timeout_s)
        metrics.requests.labels("unread", str(status)).inc()
        response = self._reworded(status, _REASONS.get(status, _UNREAD))
        response.headers[REQUEST_ID] = context.request_id
        response.force_close()
        return response

    def guard(self, handler: Handler) -> Handler:
        """Return the application's handler, surrounded where it refuses before its middlewares."""

        async def guarded(request: Any) -> web.StreamResponse:
            try:
                return await handler(request)
            except web.HTTPException as answer:
                # what a client expects (RFC 9110, 10.1.1) is looked at first
                context = RequestContext.start(self._timeout_s, _request_id(request))
                metrics.requests.labels(_route(request), str(answer.status)).inc()
                response = self._reshaped(request, answer)
                response.headers[REQUEST_ID] = context.request_id
                response.force_close()
                return response

        return guarded

    async def prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        """Add what every answer says; for `app.on_response_prepare`."""
        context = request.get(CONTEXT)
        if context is not None:
            response.headers[REQUEST_ID] = context.request_id
        response.headers.update(self._cors.headers(request))
        if request.version < HttpVersion11 and response.content_length is None:
            # only its end tells where such an answer ends (RFC 9112, 6.3)
            response.headers["Connection"] = "close"
            response.force_close()

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
                if not response.prepared and not _is_read(request):
                    # nobody waits for the rest of a body that no handler wanted
                    response.force_close()
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
            if self._cors.is_preflight(request):
                return self._preflight(request)
            if not request.path.startswith("/v1/") or request.method == "OPTIONS":
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

    def _preflight(self, request: web.Request) -> web.Response:
        if self._cors.lets_in(request):
            return self._cors.preflight(request)
        message = "This gateway is not open to pages of this origin."
        return self._refusal(MeshError(Code.PERMISSION_DENIED, message))

    def _refusal(self, error: MeshError) -> web.Response:
        """Return the answer that a MeshError becomes."""
        response = web.json_response(self._error_body(error), status=error.code.value.http)
        if error.code is Code.UNAUTHENTICATED:
            response.headers["WWW-Authenticate"] = CHALLENGE
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
        }.get(answer.status, _REASONS.get(answer.status, answer.reason))
        response = self._reworded(answer.status, message)
        for name in ("Allow", "Accept-Encoding"):
            if name in answer.headers:
                response.headers[name] = answer.headers[name]
        return response

    def _reworded(self, status: int, message: str) -> web.Response:
        body = self._error_body(MeshError(Code.INVALID_ARGUMENT, message))
        return web.json_response(body, status=status)

    def _count(self, change: int) -> None:
        self._in_flight += change
        metrics.in_flight.set(self._in_flight)
        if self._in_flight:
            self._idle.clear()
        else:
            self._idle.set()


def internal_error(context: RequestContext) -> MeshError:
    """Return what a caller sees of a fault of ours."""
    return MeshError(Code.INTERNAL, f"Internal error. Request id: {context.request_id}")


def _is_read(request: web.Request) -> bool:
    """Return whether the body came to its end, and well."""
    return request.content.is_eof() and request.content.exception() is None


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
