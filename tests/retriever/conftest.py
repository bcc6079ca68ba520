"""Parts of a retriever: the real encoder, loaded once, and a cheap one that counts words."""

from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest

from mesh.bus import Bus
from mesh.bus.subjects import INGEST_BUCKET, INGEST_STREAM, WRITER_BUCKET
from services.retriever import encoder
from services.retriever.embed import Embedder
from services.retriever.library import Library
from tests.retriever.parts import DIMENSIONS, count_words


@pytest.fixture(scope="session")
def real_encoder() -> encoder.Encoder:
    return encoder.load("", threads=1)


@pytest.fixture
async def bus(nats_url: str) -> AsyncIterator[Bus]:
    """A connection to a server on which no retriever has left anything."""
    client = await nats.connect(nats_url)
    jetstream = client.jetstream()
    for stream in (INGEST_STREAM, f"OBJ_{INGEST_BUCKET}", f"KV_{WRITER_BUCKET}"):
        try:
            await jetstream.delete_stream(stream)
        except nats.js.errors.NotFoundError:
            continue
    await client.close()
    connected = await Bus.connect(nats_url, "test")
    yield connected
    await connected.close()


@pytest.fixture
async def library(tmp_path: Path) -> AsyncIterator[Library]:
    opened = await Library.open(tmp_path, "words", DIMENSIONS)
    yield opened
    await opened.close()


@pytest.fixture
async def embedder() -> AsyncIterator[Embedder]:
    async with Embedder(count_words) as running:
        yield running
