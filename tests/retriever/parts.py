"""What several tests of the retriever share."""

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from services.retriever.document import Document

DIMENSIONS = 64
LIMIT_S = 15.0
POLL_S = 0.01


def count_words(texts: Sequence[str]) -> NDArray[np.float32]:
    """Unit vectors of word counts: texts that share words are near."""
    vectors = np.full((len(texts), DIMENSIONS), 1e-3, np.float32)
    for row, text in zip(vectors, texts, strict=True):
        for word in text.lower().split():
            row[zlib.crc32(word.strip(".,?").encode()) % DIMENSIONS] += 1
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Returns once an awaited condition holds; fails after LIMIT_S."""
    async with asyncio.timeout(LIMIT_S):
        while not await condition():  # noqa: ASYNC110  # what it asks has no event
            await asyncio.sleep(POLL_S)


def a_document(
    ingestion_id: str, version: str = "v1", source: str = "a.txt", media_type: str = "text/plain"
) -> Document:
    """A version of a source in the collection `docs`."""
    return Document(ingestion_id, f"{source}-{version}", "docs", source, media_type)
