"""Servers with health, reflection and one error edge around every call.

Exception texts never cross: grpc.aio would send an unknown exception's class and message to the
caller, so the edge answers INTERNAL and logs the rest.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from opentelemetry.trace import SpanKind
from prometheus_client import Counter, Histogram

from mesh.context import RequestContext
from mesh.errors import Code, MeshError
from mesh.health import HealthServicer
from mesh.lifecycle import Lifecycle
from mesh.rpc.limits import DEFAULT_LIMIT_S, MESSAGE_OPTIONS
from mesh.rpc.status import abort
from mesh.telemetry import span

logger = logging.getLogger(__name__)

MAX_CONCURRENT_CALLS = 4096
# a server ends old connections so that clients resolve again and find new replicas
CONNECTION_AGE_MS = 60_000
STOP_GRACE_S = 5.0

_handled = Histogram(
    "infermesh_rpc_server_seconds",
    "Time to the end of a call, by method and gRPC code",
    ["method", "code"],
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
_faults = Counter("infermesh_rpc_server_faults_total", "Calls ended by a fault of ours", ["method"])

Context = grpc.aio.ServicerContext


async def serve(
    lifecycle: Lifecycle,
    address: str,
    add_servicers: Iterable[Callable[[grpc.aio.Server], None]],
    service_names: Sequence[str],
) -> int:
    """Start a server that the life cycle stops; return its port.

    It turns unhealthy when the process drains, then finishes the calls it has.
    """
    server = grpc.aio.server(
        interceptors=[_Edge()],
        options=[
            *MESSAGE_OPTIONS,
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
    """Return the request that a servicer's call belongs to; gRPC's deadline holds where earlier."""
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
        await abort(context, error)
    except asyncio.CancelledError:
        code = "CANCELLED"
        raise
    except Exception:
        code = "INTERNAL"
        _faults.labels(method).inc()
        logger.exception("fault in %s", method)
        await abort(context, MeshError(Code.INTERNAL, "Internal error."))
    finally:
        _handled.labels(method, code).observe(time.perf_counter() - started)


def _carrier(metadata_: Any) -> dict[str, str]:
    return {k: v for k, v in metadata_ or () if isinstance(v, str)}
