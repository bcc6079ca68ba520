"""One holder of a lease at a time."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable

import pytest
from nats.js.errors import KeyNotFoundError

from mesh.bus import Bus, LeaseError, LeaseHeldError, LeaseLostError
from mesh.bus.lease import KEY, Lease
from mesh.lifecycle import cancel_until_ended

New = Callable[..., Lease]


@pytest.fixture
async def bucket(bus: Bus) -> AsyncIterator[str]:
    """A bucket that no lease has used, removed in the end."""
    name = uuid.uuid4().hex
    yield name
    await bus._jetstream.delete_key_value(name)


@pytest.fixture
def lease(bus: Bus, bucket: str) -> New:
    """Leases of one bucket, by owner."""

    def new(owner: str, renew_s: float = 3.0) -> Lease:
        return bus.lease(bucket, owner, ttl_s=10, renew_s=renew_s)

    return new


async def test_another_owner_is_refused_until_release(lease: New) -> None:
    """After a release the other owner may have it at once."""
    first, other = lease("a"), lease("a b")
    await first.acquire()
    with pytest.raises(LeaseHeldError):
        await other.acquire()
    await first.release()
    await other.acquire()


async def test_of_owners_at_once_one_gets_it(lease: New) -> None:
    """However they overlap, all but one are refused."""
    owners = [lease(str(number)) for number in range(5)]
    results = await asyncio.gather(*(o.acquire() for o in owners), return_exceptions=True)
    assert results.count(None) == 1
    assert sum(isinstance(result, LeaseError) for result in results) == 4


async def test_the_same_owner_takes_over_at_once(lease: New) -> None:
    """After a crash nobody waits; the process that lives on by mistake finds out."""
    ghost, heir = lease("a", 0.05), lease("a")
    await ghost.acquire()
    await heir.acquire()
    async with asyncio.timeout(5):
        with pytest.raises(LeaseLostError):
            await ghost.keep()


async def test_a_release_after_a_takeover_releases_nothing(lease: New) -> None:
    """The lease of the process that took over stays its own."""
    ghost, heir, other = lease("a"), lease("a"), lease("b")
    await ghost.acquire()
    await heir.acquire()
    await ghost.release()
    with pytest.raises(LeaseHeldError):
        await other.acquire()


async def test_renewing_keeps_the_lease_and_finds_it_again(
    bus: Bus, bucket: str, lease: New
) -> None:
    """It is written again and again, also after it ran out."""
    held = lease("a", 0.02)
    await held.acquire()
    keys = await bus._jetstream.key_value(bucket)
    keeping = asyncio.create_task(held.keep())
    try:
        async with asyncio.timeout(5):
            for _ in range(2):
                await _renewed(bus, bucket)
                await keys.purge(KEY)
            await _renewed(bus, bucket)
    finally:
        await cancel_until_ended({keeping})


async def test_renewing_outlives_a_bus_that_is_away(nats_url: str, bus: Bus, bucket: str) -> None:
    """Without the bus the lease is not renewed, and nobody ends for that."""
    away = await Bus.connect(nats_url, "test")
    held = away.lease(bucket, "a", ttl_s=10, renew_s=0.001)
    await held.acquire()
    await away._client.close()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await held.keep()
    await held.release()


async def _renewed(bus: Bus, bucket: str) -> None:
    """Returns when two revisions in a row were read."""
    keys = await bus._jetstream.key_value(bucket)
    seen: set[int | None] = set()
    while len(seen) < 2:
        try:
            seen.add((await keys.get(KEY)).revision)
        except KeyNotFoundError:
            await asyncio.sleep(0.01)
