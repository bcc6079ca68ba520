"""A connection to a real nats-server."""

from collections.abc import AsyncIterator

import pytest

from mesh.bus import Bus


@pytest.fixture
async def bus(nats_url: str) -> AsyncIterator[Bus]:
    """A connection that is closed in the end, twice."""
    connected = await Bus.connect(nats_url, "test")
    yield connected
    await connected.close()
    await connected.close()
