"""The cache's parts over a real Redis."""

import subprocess
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import grpc
import pytest
from redis.asyncio import Redis

from cli import servers
from mesh import rpc
from mesh.lifecycle import Lifecycle
from mesh.pb.cache_pb2_grpc import CacheStub, add_CacheServicer_to_server
from services.cache.redis_store import RedisStore
from services.cache.servicer import CacheServicer
from tests.conftest import wait_for_port

MAX_ANSWER_BYTES = 1_000
TIMEOUT_S = 0.25
# for tests of what is answered, however busy the machine is
PATIENT_S = 10.0


class KillableRedis:
    """A Redis that comes and goes on one port."""

    def __init__(self, folder: Path) -> None:
        self.port = servers.free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._command = servers.redis_command(self.port, folder)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it takes connections."""
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(self._command, stdout=quiet, stderr=quiet)
        wait_for_port(self.port, self._process)

    def kill(self) -> None:
        """At once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def killable_redis(tmp_path: Path) -> Iterator[KillableRedis]:
    """Not started yet."""
    redis = KillableRedis(tmp_path)
    yield redis
    redis.kill()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """Redis itself, empty before the test."""
    async with Redis.from_url(redis_url) as client:
        await client.flushall()
        yield client


@pytest.fixture
async def store(redis_url: str, redis: Redis) -> AsyncIterator[RedisStore]:
    """The store over an empty Redis."""
    made = RedisStore(redis_url, TIMEOUT_S)
    yield made
    await made.close()


async def serving(url: str, timeout_s: float) -> AsyncIterator[tuple[CacheStub, Lifecycle]]:
    """A served cache and a client of it."""
    lifecycle = Lifecycle()
    store = RedisStore(url, timeout_s)
    lifecycle.stack.push_async_callback(store.close)
    lifecycle.checks.add("redis", store.ping)
    servicer = CacheServicer(store, ttl_s=60, max_answer_bytes=MAX_ANSWER_BYTES)
    add = partial(add_CacheServicer_to_server, servicer)
    port = await rpc.serve(lifecycle, "127.0.0.1:0", [add], ["mesh.v1.Cache"])
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield CacheStub(channel), lifecycle
    await lifecycle.close()


@pytest.fixture
async def cache(redis_url: str, redis: Redis) -> AsyncIterator[CacheStub]:
    """A client of a cache over an empty Redis."""
    async for stub, _ in serving(redis_url, PATIENT_S):
        yield stub
