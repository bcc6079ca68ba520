"""Parts of a retriever: the real encoder, loaded once, and a cheap one that counts words."""

from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest

from mesh.bus import Bus
from mesh.bus.subjects import INGEST_BUCKET, INGEST_STREAM, WRITER_BUCKET
from services.retriever import encoder
from services.retriever.collections_store import CollectionsStore
from services.retriever.encoder_batcher import EncoderBatcher
from tests.retriever.parts import DIMENSIONS, count_tokens


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
async def collections(tmp_path: Path) -> AsyncIterator[CollectionsStore]:
    opened = await CollectionsStore.open(tmp_path, "words", DIMENSIONS)
    yield opened
    await opened.close()


@pytest.fixture
async def batcher() -> AsyncIterator[EncoderBatcher]:
    async with EncoderBatcher(count_tokens) as running:
        yield running
