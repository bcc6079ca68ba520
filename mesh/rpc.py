"""gRPC at both ends: servers with health, reflection and one error edge; calls with deadlines.

Exception texts never cross: grpc.aio would send an unknown exception's class and message to the
caller, so the edge answers INTERNAL and logs the rest.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol, TypeVar

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from opentelemetry.trace import SpanKind
from prometheus_client import Counter, Histogram

from mesh.context import RequestContext
from mesh.errors import DEADLINE_PASSED, Code, MeshError
from mesh.health import HealthServicer
from mesh.lifecycle import Lifecycle
from mesh.telemetry import inject, span

logger = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 32 * 2**20
MAX_CONCURRENT_CALLS = 4096
DEFAULT_LIMIT_S = 600.0
# a server ends old connections so that clients resolve again and find new replicas
CONNECTION_AGE_MS = 60_000
STOP_GRACE_S = 5.0
OURS = "infermesh-error"
FIELD = "infermesh-field"
RETRY_AFTER = "infermesh-retry-after-s"

_LIMITS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
]
# idempotent or not yet started calls only: gRPC never retries a call that has had an answer
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.05s",
                "maxBackoff": "0.5s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
}

_handled = Histogram(
    "infermesh_rpc_server_seconds",
    "Time to the end of a call, by method and gRPC code",
    ["method", "code"],
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
_faults = Counter("infermesh_rpc_server_faults_total", "Calls ended by a fault of ours", ["method"])

Request = TypeVar("Request", contravariant=True)
Reply = TypeVar("Reply")
UnaryReply = TypeVar("UnaryReply", covariant=True)
Context = grpc.aio.ServicerContext


class UnaryMethod(Protocol[Request, UnaryReply]):
    """A stub's method with one request and one reply."""

    def __call__(
        self,
        request: Request,
        /,
        *,
        timeout: float | None = None,
        metadata: Any = None,  # grpc's own alias for it is private
    ) -> Awaitable[UnaryReply]: ...


class StreamMethod(Protocol[Request, Reply]):
    """A stub's method with one request and a stream of replies."""

    def __call__(
        self,
        request: Request,
        /,
        *,
        timeout: float | None = None,
        metadata: Any = None,  # grpc's own alias for it is private
    ) -> grpc.aio.UnaryStreamCall[Any, Reply]: ...


# -- servers ---------------------------------------------------------------------------------


async def serve(
    lifecycle: Lifecycle,
    address: str,
    add_servicers: Iterable[Callable[[grpc.aio.Server], None]],
    service_names: Sequence[str],
) -> int:
    """Starts a server that the life cycle stops; returns its port.

    It turns unhealthy when the process drains, then finishes the calls it has.
    """
    server = grpc.aio.server(
        interceptors=[_Edge()],
        options=[
            *_LIMITS,
            ("grpc.max_connection_age_ms", CONNECTION_AGE_MS),
            ("grpc.so_reuseport", 0),
        ],
        maximum_concurrent_rpcs=MAX_CONCURRENT_CALLS,
    )
    for add in add_servicers:
        add(server)
    health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(lifecycle.checks), server)
    reflection.enable_server_reflection(
        [*service_names, health.SERVICE_NAME, reflection.SERVICE_NAME], server
    )
    port = server.add_insecure_port(address)
    await server.start()
    lifecycle.stack.push_async_callback(server.stop, STOP_GRACE_S)
    logger.info("gRPC on port %d", port)
    return port


def request_context(context: Context[Any, Any]) -> RequestContext:
    """The request that a servicer's call belongs to; gRPC's own deadline holds where earlier."""
    left = context.time_remaining()
    limit_s = DEFAULT_LIMIT_S if left is None else min(left, DEFAULT_LIMIT_S)
    return RequestContext.from_headers(_carrier(context.invocation_metadata()), limit_s)


class _Edge(grpc.aio.ServerInterceptor):
    """Around every call: a server span, a timing, and errors from the one table."""

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = await continuation(details)
        if handler is None or details.method.startswith("/grpc."):
            return handler
        if handler.response_streaming:
            kind = "stream_stream" if handler.request_streaming else "unary_stream"
            wrapped: Any = _stream(details.method, getattr(handler, kind))
        else:
            kind = "stream_unary" if handler.request_streaming else "unary_unary"
            wrapped = _unary(details.method, getattr(handler, kind))
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(wrapped, handler.request_deserializer, handler.response_serializer)


def _unary(method: str, behaviour: Any) -> Any:
    async def handle(request: Any, context: Context[Any, Any]) -> Any:
        async with _edge(method, context):
            return await behaviour(request, context)

    return handle


def _stream(method: str, behaviour: Any) -> Any:
    async def handle(request: Any, context: Context[Any, Any]) -> AsyncIterator[Any]:
        async with _edge(method, context):
            async for reply in behaviour(request, context):
                yield reply

    return handle


@asynccontextmanager
async def _edge(method: str, context: Context[Any, Any]) -> AsyncIterator[None]:
    started = time.perf_counter()
    code = "OK"
    carrier = _carrier(context.invocation_metadata())
    try:
        with span(method.lstrip("/"), kind=SpanKind.SERVER, carrier=carrier):
            yield
    except MeshError as error:
        code = error.code.name
        await _abort(context, error)
    except asyncio.CancelledError:
        code = "CANCELLED"
        raise
    except Exception:
        code = "INTERNAL"
        _faults.labels(method).inc()
        logger.exception("fault in %s", method)
        await _abort(context, MeshError(Code.INTERNAL, "Internal error."))
    finally:
        _handled.labels(method, code).observe(time.perf_counter() - started)


async def _abort(context: Context[Any, Any], error: MeshError) -> None:
    trailing = [(OURS, "1")]
    if error.field is not None:
        trailing.append((FIELD, error.field))
    if error.retry_after_s is not None:
        trailing.append((RETRY_AFTER, str(error.retry_after_s)))
    await context.abort(_STATUS[error.code.value.grpc], error.message, tuple(trailing))


# -- clients ---------------------------------------------------------------------------------


def channel(addresses: str) -> grpc.aio.Channel:
    """A channel that balances over all replicas behind `addresses`.

    `host:port` is resolved through DNS, again whenever a connection ends; several literal
    addresses are given with commas.
    """
    listed = [a.strip() for a in addresses.split(",") if a.strip()]
    target = f"dns:///{listed[0]}" if len(listed) == 1 else "ipv4:" + ",".join(listed)
    options = [
        *_LIMITS,
        ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
        ("grpc.dns_min_time_between_resolutions_ms", 1000),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.enable_http_proxy", 0),
    ]
    return grpc.aio.insecure_channel(target, options=options)


async def call(
    method: UnaryMethod[Request, Reply],
    request: Request,
    context: RequestContext,
    *,
    limit_s: float = DEFAULT_LIMIT_S,
) -> Reply:
    """One unary call within the request's deadline and `limit_s`; raises MeshError."""
    timeout = context.remaining(limit_s)
    with _translated():
        return await method(request, timeout=timeout, metadata=metadata(context))


async def stream(
    method: StreamMethod[Request, Reply], request: Request, context: RequestContext
) -> AsyncIterator[Reply]:
    """The replies of a streaming call; leaving it in any way ends the call on the server too.

    Close it (`contextlib.aclosing`) where the loop over it may end early.
    """
    replies = method(request, timeout=context.remaining(), metadata=metadata(context))
    try:
        with _translated():
            async for reply in replies:
                yield reply
    finally:
        replies.cancel()


def metadata(context: RequestContext) -> tuple[tuple[str, str], ...]:
    """The request's id, deadline and trace, as gRPC metadata."""
    headers = context.headers()
    inject(headers)
    return tuple(headers.items())


def translate(error: grpc.aio.AioRpcError) -> MeshError:
    """The mesh's error for a failed call; only texts written by our own edge are kept."""
    code = Code.from_grpc(error.code().value[0])
    trailing = dict(error.trailing_metadata() or ())
    if OURS not in trailing:
        return MeshError(code, _GENERIC.get(code, "A part of the service failed."))
    retry = trailing.get(RETRY_AFTER)
    return MeshError(
        code,
        error.details() or "",
        field=trailing.get(FIELD),
        retry_after_s=None if retry is None else float(retry),
    )


@contextmanager
def _translated() -> Any:
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise translate(error) from error


def _carrier(metadata_: Any) -> dict[str, str]:
    return {k: v for k, v in metadata_ or () if isinstance(v, str)}


_STATUS = {status.value[0]: status for status in grpc.StatusCode}
_GENERIC = {
    Code.UNAVAILABLE: "A part of the service is not available now.",
    Code.DEADLINE_EXCEEDED: DEADLINE_PASSED,
    Code.CANCELLED: "The request was cancelled.",
    Code.RESOURCE_EXHAUSTED: "A part of the service is overloaded or the request is too large.",
}
