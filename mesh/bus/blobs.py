"""Blobs in a JetStream object store: payloads that are too large for a message."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nats.js import JetStreamContext
from nats.js.api import ObjectMeta, ObjectMetaOptions, ObjectStoreConfig
from nats.js.errors import BucketNotFoundError, NotFoundError
from nats.js.object_store import ObjectStore

from mesh.bus.errors import translated

CHUNK_BYTES = 2**20
TIMEOUT_S = 60.0


class BlobNotFoundError(Exception):
    """There is no blob of this name, or no longer."""


class Blobs:
    """Bytes by name; they vanish some time after they were put.

    Every method raises BusUnavailableError, after TIMEOUT_S at the latest.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    @classmethod
    async def open(cls, jetstream: JetStreamContext, bucket: str, *, ttl_s: float) -> "Blobs":
        """Make the bucket if it is not there; raise BusUnavailableError."""
        async with _limited():
            try:
                store = await jetstream.object_store(bucket)
            except (BucketNotFoundError, NotFoundError):
                store = await jetstream.create_object_store(
                    bucket, ObjectStoreConfig(bucket=bucket, ttl=ttl_s)
                )
        return cls(store)

    async def put(self, name: str, data: bytes) -> None:
        """Keep `data`, in place of an older blob; return when it is on disk."""
        meta = ObjectMeta(options=ObjectMetaOptions(max_chunk_size=CHUNK_BYTES))
        async with _limited():
            await self._store.put(name, data, meta)

    async def get(self, name: str) -> bytes:
        """Return a blob; raise BlobNotFoundError."""
        async with _limited():
            try:
                return (await self._store.get(name)).data or b""
            except NotFoundError:
                raise BlobNotFoundError(name) from None

    async def exists(self, name: str) -> bool:
        """Return whether `get` would find this blob."""
        async with _limited():
            try:
                await self._store.get_info(name)
            except NotFoundError:
                return False
        return True

    async def delete(self, name: str) -> None:
        """Forget a blob; idempotent."""
        async with _limited():
            try:
                await self._store.delete(name)
            except NotFoundError:
                return


@asynccontextmanager
async def _limited() -> AsyncIterator[None]:
    with translated("The blob store is not available now."):
        async with asyncio.timeout(TIMEOUT_S):
            yield
