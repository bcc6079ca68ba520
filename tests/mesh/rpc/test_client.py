"""The client's side of a call: deadlines, cancellation, retries and balancing."""

import asyncio
from contextlib import aclosing

import pytest

from mesh import rpc
from mesh.context import RequestContext
from mesh.errors import Code, MeshError, unavailable
from mesh.pb import generator_pb2 as pb
from tests.mesh.rpc.pair import DESCRIBE, Pair, failure
from tests.waiting import until


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
