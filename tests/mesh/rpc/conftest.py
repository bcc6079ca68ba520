"""The pair of replicas that the tests of gRPC call."""

from collections.abc import AsyncIterator

import pytest

from tests.mesh.rpc.pair import Pair, served


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """Served through `rpc.serve`, called through `rpc.channel`."""
    async with served() as pair:
        yield pair
