"""Whether another service is ready, asked of a real server."""

from typing import Any

import pytest

from mesh.errors import MeshError
from services.gateway.clients.health import ServicePing


async def test_ping(stack: Any) -> None:
    """A service is there until it is not."""
    ping = ServicePing(stack.remotes["cache"].channel)
    await ping()
    await stack.remotes["cache"].stop()
    with pytest.raises(MeshError):
        await ping()
