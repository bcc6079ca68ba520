"""One store per NATS server."""

import asyncio

import pytest

from mesh.bus import Bus
from services.retriever import lease as under_test
from services.retriever.folder import WriterError
from services.retriever.lease import BUCKET, KEY, Lease


async def test_another_store_is_refused_until_release(bus: Bus) -> None:
    """The refusal says what to do; after a release the other store may start at once."""
    first, other = Lease(bus, "store-a"), Lease(bus, "store-b")
    await first.acquire()
    with pytest.raises(WriterError, match=r"another store.*run one retriever"):
        await other.acquire()
    await first.release()
    await other.acquire()


async def test_the_same_store_takes_over_at_once(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a crash nobody waits; the process that lives on by mistake finds out and ends."""
    monkeypatch.setattr(under_test, "RENEW_S", 0.05)
    ghost, heir = Lease(bus, "store-a"), Lease(bus, "store-a")
    await ghost.acquire()
    await heir.acquire()
    async with asyncio.timeout(5):
        with pytest.raises(WriterError, match="taken over"):
            await ghost.renew()


async def test_renewing_keeps_the_lease_and_finds_it_again(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is written again and again, also after it ran out."""
    monkeypatch.setattr(under_test, "RENEW_S", 0.02)
    lease = Lease(bus, "store-a")
    await lease.acquire()
    keys = await bus.keys(BUCKET, ttl_s=10)
    renewing = asyncio.create_task(lease.renew())
    try:
        async with asyncio.timeout(5):
            for _ in range(2):
                await _renewed(bus)
                await keys.purge(KEY)
            await _renewed(bus)
    finally:
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)


async def _renewed(bus: Bus) -> None:
    """Returns when two revisions in a row were read."""
    keys = await bus.keys(BUCKET, ttl_s=10)
    seen: set[int | None] = set()
    while len(seen) < 2:
        try:
            seen.add((await keys.get(KEY)).revision)
        except under_test.KeyNotFoundError:
            await asyncio.sleep(0.01)
