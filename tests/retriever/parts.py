"""What several tests of the retriever share."""

import asyncio
import re
import zlib
from array import array
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from services.retriever.document import Document
from services.retriever.encoder_tokenizer import EncoderTokenizer

DIMENSIONS = 64
LIMIT_S = 15.0
POLL_S = 0.01


class WordTokenizer(EncoderTokenizer):
    """A token for each word, between the two special ones 0 and 1."""

    def __init__(self, limit: int = 256) -> None:
        self.limit, self.vocab_size = limit, 2**32
        self._prefix, self._suffix = [0], [1]

    def starts(self, text: str) -> "array[int]":
        """Where words begin."""
        return array("I", (match.start() for match in re.finditer(r"\S+", text)))

    def _ids(self, texts: Sequence[str], add_special_tokens: bool) -> list[list[int]]:
        assert add_special_tokens
        words = [[w.strip(".,?") for w in text.lower().split()] for text in texts]
        return [self.framed([zlib.crc32(w.encode()) | 2 for w in each]) for each in words]


def count_tokens(sequences: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """Unit vectors of token counts: texts that share words are near."""
    vectors = np.full((len(sequences), DIMENSIONS), 1e-3, np.float32)
    for row, sequence in zip(vectors, sequences, strict=True):
        for token_id in sequence[1:-1]:
            row[token_id % DIMENSIONS] += 1
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def count_words(texts: Sequence[str]) -> NDArray[np.float32]:
    """Unit vectors of word counts."""
    return count_tokens(WordTokenizer().encode(texts))


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
