"""The process: a second writer is refused before it does anything."""

import asyncio
import os
import sys
from pathlib import Path

from mesh.bus import Bus
from mesh.bus.subjects import WRITER_BUCKET
from services.retriever.folder import DataFolder


async def refusal(nats_url: str, data: Path) -> str:
    """What a retriever says that must not start."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "services.retriever"),
        env={
            "PATH": os.environ["PATH"],
            "INFERMESH_NATS_URL": nats_url,
            "INFERMESH_RETRIEVER_DATA": str(data),
            "INFERMESH_RETRIEVER_PORT": "0",
        },
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(20):
        _, said = await process.communicate()
    assert process.returncode == 1
    return said.decode()


async def test_a_second_process_on_a_folder_is_refused(
    bus: Bus, nats_url: str, tmp_path: Path
) -> None:
    """It ends with 1 and says what to do."""
    held = DataFolder(tmp_path)
    said = await refusal(nats_url, tmp_path)
    held.close()
    assert "the embedded store has one writer; another process uses" in said
    assert "INFERMESH_RETRIEVER_DATA" in said


async def test_a_second_store_on_a_bus_is_refused(bus: Bus, nats_url: str, tmp_path: Path) -> None:
    """With a folder of its own it would take half of the documents."""
    await bus.lease(WRITER_BUCKET, "another-store", ttl_s=10, renew_s=3).acquire()
    assert "a retriever with another store" in await refusal(nats_url, tmp_path)
