"""Both ends of a gRPC call: errors, deadlines, cancellation, retries and balancing."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from functools import partial
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh import rpc
from mesh.context import RequestContext
from mesh.errors import Code, MeshError, invalid, unavailable
from mesh.lifecycle import Lifecycle, State
from mesh.pb import generator_pb2 as pb
from mesh.pb import generator_pb2_grpc as pb_grpc
from tests.waiting import until

Behaviour = Callable[[Any], Awaitable[Any]]
DESCRIBE = pb.DescribeGeneratorRequest()


class Scripted(pb_grpc.GeneratorServicer):
    """Does what the test says and remembers what it saw."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.calls = 0
        self.ended = 0
        self.contexts: list[RequestContext] = []
        self.fault: Exception | None = None
        self.faults_left = 10**9
        self.reply_bytes = 1
        self.replies = 10**9
        self.waits = False

    async def Describe(self, request: Any, context: Any) -> Any:
        self._begin(context)
        if self.waits:
            await asyncio.Event().wait()
        return pb.DescribeGeneratorResponse(replica_id=self.name)

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            for n in range(self.replies):
                if n == 0:
                    self.calls += 1
                    self.contexts.append(rpc.request_context(context))
                if self.fault is not None and n == 2:
                    raise self.fault
                yield pb.GenerateResponse(token_ids=[n] * self.reply_bytes)
                await asyncio.sleep(0.001)
        finally:
            self.ended += 1

    def _begin(self, context: Any) -> None:
        self.calls += 1
        self.contexts.append(rpc.request_context(context))
        if self.fault is not None and self.faults_left > 0:
            self.faults_left -= 1
            raise self.fault


class Pair:
    """Two served replicas of one service and a client of both or of the first."""

    def __init__(self) -> None:
        self.replicas = [Scripted("r0"), Scripted("r1")]
        self.ports: list[int] = []
        self.lives: list[Lifecycle] = []
        self.first: Any = None
        self.both: Any = None

    @property
    def one(self) -> Scripted:
        return self.replicas[0]


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """Served through `rpc.serve`, called through `rpc.channel`."""
    made = Pair()
    async with AsyncExitStack() as stack:
        for replica in made.replicas:
            life = Lifecycle()
            stack.push_async_callback(life.close)
            add = partial(pb_grpc.add_GeneratorServicer_to_server, replica)
            made.ports.append(await rpc.serve(life, "127.0.0.1:0", [add], ["mesh.v1.Generator"]))
            made.lives.append(life)
        addresses = [f"127.0.0.1:{port}" for port in made.ports]
        made.first = pb_grpc.GeneratorStub(
            await stack.enter_async_context(rpc.channel(addresses[0]))
        )
        made.both = pb_grpc.GeneratorStub(
            await stack.enter_async_context(rpc.channel(" , ".join(addresses)))
        )
        yield made


async def failure(pair: Pair, limit_s: float = 10.0) -> MeshError:
    with pytest.raises(MeshError) as error:
        await rpc.call(pair.first.Describe, DESCRIBE, RequestContext.start(limit_s))
    return error.value


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


async def test_errors_keep_field_and_retry(pair: Pair) -> None:
    """Code, message, field and the time to retry survive the wire."""
    pair.one.fault = invalid("top_k", "top_k must be at most 100 (größer, 日本).")
    error = await failure(pair)
    assert (error.code, error.field) == (Code.INVALID_ARGUMENT, "top_k")
    assert error.message == "top_k must be at most 100 (größer, 日本)."
    assert error.retry_after_s is None
    pair.one.fault = MeshError(Code.RESOURCE_EXHAUSTED, "Full.", retry_after_s=1.5)
    error = await failure(pair)
    assert (error.code, error.retry_after_s, error.field) == (Code.RESOURCE_EXHAUSTED, 1.5, None)


@pytest.mark.parametrize("code", [c for c in Code if c is not Code.UNAVAILABLE])
async def test_every_code_survives(pair: Pair, code: Code) -> None:
    """What the servicer raises is what the caller gets."""
    pair.one.fault = MeshError(code, "Words.")
    error = await failure(pair)
    assert (error.code, error.message) == (code, "Words.")


async def test_an_unknown_exception_is_internal(pair: Pair) -> None:
    """Neither class nor text of a fault crosses the wire, to any client."""
    pair.one.fault = ValueError("password=secret")
    error = await failure(pair)
    assert (error.code, error.message) == (Code.INTERNAL, "Internal error.")
    with pytest.raises(grpc.aio.AioRpcError) as raw:
        await pair.first.Describe(DESCRIBE)
    assert raw.value.details() == "Internal error."
    text = f"{raw.value!r} {raw.value.trailing_metadata()} {raw.value.debug_error_string()}"
    assert "secret" not in text
    assert "ValueError" not in text


async def test_errors_inside_a_stream(pair: Pair) -> None:
    """A stream gives what came before the fault, then the mapped error."""
    count = 0
    for fault, code in (
        (unavailable("Gone."), Code.UNAVAILABLE),
        (RuntimeError("secret"), Code.INTERNAL),
    ):
        pair.one.fault = fault
        with pytest.raises(MeshError) as error:
            async for _ in rpc.stream(
                pair.first.Generate, pb.GenerateRequest(), RequestContext.start(10)
            ):
                count += 1
        assert error.value.code is code
        assert "secret" not in error.value.message
    assert count == 4
    assert pair.one.calls == 2, "a started stream is never retried"


async def test_foreign_texts_are_not_kept() -> None:
    """An error that our own edge did not write gets a generic text."""
    async with rpc.channel("127.0.0.1:1") as channel:
        stub: Any = pb_grpc.GeneratorStub(channel)
        with pytest.raises(MeshError) as error:
            await rpc.call(stub.Describe, DESCRIBE, RequestContext.start(5))
    assert error.value.code is Code.UNAVAILABLE
    assert "127.0.0.1" not in error.value.message


async def test_a_method_that_is_missing_is_unimplemented(pair: Pair) -> None:
    """A caller of a newer contract is told so."""
    async with rpc.channel(f"127.0.0.1:{pair.ports[0]}") as channel:
        method: Any = channel.unary_unary("/mesh.v1.Generator/Later")
        with pytest.raises(MeshError) as error:
            await rpc.call(method, b"", RequestContext.start(5))
    assert error.value.code is Code.UNIMPLEMENTED


async def test_the_deadline_ends_a_call(pair: Pair) -> None:
    """A servicer that takes too long costs its caller no more than the deadline."""
    await rpc.call(pair.first.Describe, DESCRIBE, RequestContext.start(10))
    pair.one.waits = True
    assert (await failure(pair, 0.3)).code is Code.DEADLINE_EXCEEDED
    await until(lambda: pair.one.calls == 2)
    assert (await failure(pair, -1)).code is Code.DEADLINE_EXCEEDED
    assert pair.one.calls == 2, "a request that is over asks nobody"


@pytest.mark.parametrize("size", [1, 50_000])
async def test_leaving_a_stream_ends_it_on_the_server(pair: Pair, size: int) -> None:
    """Closing the iterator ends the servicer, also where it waits for a slow reader."""
    pair.one.reply_bytes = size
    async with aclosing(
        rpc.stream(pair.first.Generate, pb.GenerateRequest(), RequestContext.start(60))
    ) as replies:
        await anext(replies)
    await until(lambda: pair.one.ended == 1)


async def test_a_cancelled_reader_ends_the_stream_on_the_server(pair: Pair) -> None:
    """Cancelling the task that reads has the same effect."""

    async def read() -> None:
        async for _ in rpc.stream(
            pair.first.Generate, pb.GenerateRequest(), RequestContext.start(60)
        ):
            pass

    reading = asyncio.create_task(read())
    await until(lambda: pair.one.calls == 1)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await until(lambda: pair.one.ended == 1)


async def test_unavailable_is_tried_again(pair: Pair) -> None:
    """A call that never started is repeated, a few times only."""
    pair.one.fault, pair.one.faults_left = unavailable("Not yet."), 2
    reply = await rpc.call(pair.first.Describe, DESCRIBE, RequestContext.start(10))
    assert (reply.replica_id, pair.one.calls) == ("r0", 3)


async def test_other_errors_are_not_tried_again(pair: Pair) -> None:
    """Only UNAVAILABLE promises that nothing happened."""
    pair.one.fault = MeshError(Code.INTERNAL, "Broken.")
    await failure(pair)
    assert pair.one.calls == 1


async def test_calls_spread_over_the_replicas(pair: Pair) -> None:
    """Addresses with commas are balanced, and the loss of one is not noticed."""

    async def names(count: int) -> list[str]:
        replies = [
            await rpc.call(pair.both.Describe, DESCRIBE, RequestContext.start(10))
            for _ in range(count)
        ]
        return [reply.replica_id for reply in replies]

    seen: set[str] = set()
    while len(seen) < 2:
        seen |= set(await names(1))
    got = await names(10)
    assert got.count("r0") == got.count("r1") == 5
    await pair.lives[0].close()
    assert set(await names(6)) == {"r1"}


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
