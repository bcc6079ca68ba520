"""Payloads that are too large for a message."""

import uuid
from collections.abc import AsyncIterator

import pytest

from mesh.bus import BlobNotFoundError, Blobs, Bus, BusUnavailableError


@pytest.fixture
async def blobs(bus: Bus) -> AsyncIterator[Blobs]:
    """A bucket, made when first used and found again later, removed in the end."""
    name = uuid.uuid4().hex
    for _ in range(2):
        opened = await bus.blobs(name, ttl_s=60)
    yield opened
    await bus._jetstream.delete_object_store(name)


async def test_a_blob_comes_back_whole(blobs: Blobs) -> None:
    """Larger than the server's largest message, or empty."""
    large = bytes(range(256)) * 40_000
    await blobs.put("large", large)
    await blobs.put("empty", b"")
    assert await blobs.get("large") == large
    assert await blobs.get("empty") == b""


async def test_a_blob_is_replaced(blobs: Blobs) -> None:
    """The same name again means the new bytes."""
    await blobs.put("doc", b"old")
    await blobs.put("doc", b"new")
    assert await blobs.get("doc") == b"new"


async def test_a_deleted_blob_is_not_found(blobs: Blobs) -> None:
    """Deleted or never there is the same, and deleting is idempotent."""
    await blobs.put("doc", b"x")
    assert await blobs.exists("doc")
    for _ in range(2):
        await blobs.delete("doc")
    for name in ("doc", "never"):
        assert not await blobs.exists(name)
        with pytest.raises(BlobNotFoundError):
            await blobs.get(name)


async def test_a_closed_connection_is_unavailable(nats_url: str) -> None:
    """Every method says so in the mesh's words."""
    bus = await Bus.connect(nats_url, "test")
    name = uuid.uuid4().hex
    blobs = await bus.blobs(name, ttl_s=60)
    await bus._jetstream.delete_object_store(name)
    await bus._client.close()
    for call in (blobs.put("a", b"x"), blobs.get("a"), blobs.exists("a"), blobs.delete("a")):
        with pytest.raises(BusUnavailableError):
            await call
