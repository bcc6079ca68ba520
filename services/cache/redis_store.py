"""Values by name in Redis, each with a life of its own. The only part that knows Redis.

Every question to Redis has a limit; what goes wrong there is UNAVAILABLE to the caller.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from mesh.errors import unavailable

MAX_CONNECTIONS = 64
SCAN_BATCH = 500


class RedisStore:
    """Connects when first asked, and again after every failure."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=timeout_s,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            # a pooled connection may have died with the last Redis: one new one is tried
            retry=Retry(NoBackoff(), 1),
        )
        self._redis: Redis = Redis.from_pool(pool)

    async def ping(self) -> None:
        """Raise when Redis does not answer."""
        async with self._limited():
            await self._redis.ping()

    async def get(self, name: bytes) -> bytes | None:
        """Return the value, or None."""
        async with self._limited():
            value = await self._redis.get(name)
        assert value is None or isinstance(value, bytes), "decoded by the client. This is a bug."
        return value

    async def put(self, name: bytes, value: bytes, ttl_s: int) -> None:
        """Keep the value for `ttl_s`, in place of an older one."""
        async with self._limited():
            await self._redis.set(name, value, ex=ttl_s)

    async def remove(self, name: bytes) -> None:
        """Forget one value; one that is not there is no error."""
        async with self._limited():
            await self._redis.unlink(name)

    async def remove_all(self, prefix: bytes) -> int:
        """Forget all values whose names begin so; return how many there were.

        Works in small steps: Redis serves others between them. Values that are put meanwhile may
        stay. `prefix` holds no pattern characters.
        """
        removed, cursor = 0, 0
        while True:
            async with self._limited():
                cursor, names = await self._redis.scan(cursor, prefix + b"*", SCAN_BATCH)
            if names:
                async with self._limited():
                    removed += await self._redis.unlink(*names)
            if cursor == 0:
                return removed

    async def close(self) -> None:
        """End all connections."""
        await self._redis.aclose(close_connection_pool=True)

    @asynccontextmanager
    async def _limited(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except (RedisError, OSError, TimeoutError) as error:
            raise unavailable("The answer cache cannot be reached now.") from error
