"""Calls with deadlines, retries and balancing; their errors are the mesh's."""

import json
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import grpc

from mesh.context import RequestContext
from mesh.rpc.limits import DEFAULT_LIMIT_S, MESSAGE_OPTIONS
from mesh.rpc.status import translate
from mesh.telemetry import inject

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

Request = TypeVar("Request", contravariant=True)
Reply = TypeVar("Reply")
UnaryReply = TypeVar("UnaryReply", covariant=True)


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


def channel(addresses: str) -> grpc.aio.Channel:
    """Return a channel that balances over all replicas behind `addresses`.

    `host:port` is resolved through DNS, again whenever a connection ends; several literal
    addresses are given with commas.
    """
    listed = [a.strip() for a in addresses.split(",") if a.strip()]
    target = f"dns:///{listed[0]}" if len(listed) == 1 else "ipv4:" + ",".join(listed)
    options = [
        *MESSAGE_OPTIONS,
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
    """Make one unary call within the request's deadline and `limit_s`; raise MeshError."""
    timeout = context.remaining(limit_s)
    with _translated():
        return await method(request, timeout=timeout, metadata=metadata(context))


async def stream(
    method: StreamMethod[Request, Reply], request: Request, context: RequestContext
) -> AsyncIterator[Reply]:
    """Yield the replies of a streaming call; leaving it in any way ends it on the server too.

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
    """Return the request's id, deadline and trace, as gRPC metadata."""
    headers = context.headers()
    inject(headers)
    return tuple(headers.items())


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise translate(error) from error
