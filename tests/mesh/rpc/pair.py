"""Two served replicas of one service and their clients."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest

from mesh import rpc
from mesh.context import RequestContext
from mesh.errors import MeshError
from mesh.lifecycle import Lifecycle
from mesh.pb import generator_pb2 as pb
from mesh.pb import generator_pb2_grpc as pb_grpc

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


@asynccontextmanager
async def served() -> AsyncIterator[Pair]:
    """Served through `rpc.serve`, called through `rpc.channel`."""
    pair = Pair()
    async with AsyncExitStack() as stack:
        for replica in pair.replicas:
            life = Lifecycle()
            stack.push_async_callback(life.close)
            add = partial(pb_grpc.add_GeneratorServicer_to_server, replica)
            pair.ports.append(await rpc.serve(life, "127.0.0.1:0", [add], ["mesh.v1.Generator"]))
            pair.lives.append(life)
        addresses = [f"127.0.0.1:{port}" for port in pair.ports]
        pair.first = pb_grpc.GeneratorStub(
            await stack.enter_async_context(rpc.channel(addresses[0]))
        )
        pair.both = pb_grpc.GeneratorStub(
            await stack.enter_async_context(rpc.channel(" , ".join(addresses)))
        )
        yield pair


async def failure(pair: Pair, limit_s: float = 10.0) -> MeshError:
    with pytest.raises(MeshError) as error:
        await rpc.call(pair.first.Describe, DESCRIBE, RequestContext.start(limit_s))
    return error.value
