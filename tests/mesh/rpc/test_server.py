"""The server's side of a call: its context, health, reflection and stop."""

import asyncio

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh import rpc
from mesh.context import RequestContext
from mesh.lifecycle import State
from mesh.pb import generator_pb2 as pb
from tests.mesh.rpc.pair import DESCRIBE, Pair


async def test_a_call_carries_the_request(pair: Pair) -> None:
    """The reply comes back, and the servicer sees the caller's id and deadline."""
    context = RequestContext.start(30, "id-1")
    reply = await rpc.call(pair.first.Describe, DESCRIBE, context)
    assert reply.replica_id == "r0"
    seen = pair.one.contexts[0]
    assert seen.request_id == "id-1"
    assert seen.remaining() == pytest.approx(context.remaining(), abs=0.5)


async def test_the_shorter_limit_holds(pair: Pair) -> None:
    """A hop with less time than the request tells the servicer so."""
    await rpc.call(pair.first.Describe, DESCRIBE, RequestContext.start(300), limit_s=2)
    # gRPC rounds deadlines up by some milliseconds
    assert pair.one.contexts[0].remaining() <= 2.1


async def test_health_follows_the_process(pair: Pair) -> None:
    """A served process is healthy while it is ready, and not while it drains."""
    async with rpc.channel(f"127.0.0.1:{pair.ports[0]}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        async def status() -> int:
            return int((await stub.Check(health_pb2.HealthCheckRequest())).status)

        serving = health_pb2.HealthCheckResponse.SERVING
        assert await status() != serving
        pair.lives[0].advance(State.READY)
        assert await status() == serving
        pair.lives[0].advance(State.DRAINING)
        assert await status() != serving


async def test_reflection_names_the_service(pair: Pair) -> None:
    """Tools can ask what is served."""
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    async with rpc.channel(f"127.0.0.1:{pair.ports[0]}") as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        async for reply in stub.ServerReflectionInfo(iter([request])):
            names = {service.name for service in reply.list_services_response.service}
            assert "mesh.v1.Generator" in names
            assert "grpc.health.v1.Health" in names
            break


async def test_a_call_in_progress_survives_the_stop(pair: Pair) -> None:
    """A server that stops finishes the calls it has."""
    pair.one.replies = 100
    replies = rpc.stream(pair.first.Generate, pb.GenerateRequest(), RequestContext.start(30))
    await anext(replies)
    closing = asyncio.create_task(pair.lives[0].close())
    assert len([reply async for reply in replies]) == 99
    await closing
