"""One store per NATS server."""

import asyncio
from pathlib import Path

import pytest

from mesh.bus import Bus
from mesh.lifecycle import Lifecycle
from services.retriever import writer as under_test
from services.retriever.folder import WriterError
from services.retriever.writer import become_writer


async def test_another_store_is_refused_until_the_first_ends(bus: Bus, tmp_path: Path) -> None:
    """The refusal says what to do; after the first one's end the other may start at once."""
    first, other = Lifecycle(), Lifecycle()
    await become_writer(tmp_path / "a", bus, first)
    with pytest.raises(WriterError, match=r"another store.*run one retriever"):
        await become_writer(tmp_path / "b", bus, other)
    await other.close()
    await first.close()
    heir = Lifecycle()
    await become_writer(tmp_path / "b", bus, heir)
    await heir.close()


async def test_a_writer_that_was_replaced_ends(
    bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same store in another process takes over; the process that lives on finds out."""
    monkeypatch.setattr(under_test, "LEASE_RENEW_S", 0.05)
    ghost = Lifecycle()
    folder = await become_writer(tmp_path, bus, ghost)
    heir = bus.lease(under_test.WRITER_BUCKET, folder.store_id, ttl_s=10, renew_s=3)
    await heir.acquire()
    async with asyncio.timeout(5):
        await ghost.until_stopped(0)
    with pytest.raises(WriterError, match="taken over"):
        await ghost.close()
    await heir.release()
