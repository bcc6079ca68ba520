"""From a document's bytes to passages that a search finds. Knows no queue and no store."""

import asyncio

import numpy as np

from services.retriever import document as domain
from services.retriever.chunk import chunk
from services.retriever.document import Document, Passage
from services.retriever.embed import Embedder, Urgency
from services.retriever.extract import extract
from services.retriever.library import Library

_TEXTS_AT_ONCE = 256


class Indexer:
    """Extracts, cuts, embeds and shelves, each in its own thread; the loop stays free."""

    def __init__(
        self, library: Library, embedder: Embedder, max_words: int, overlap_sentences: int
    ) -> None:
        self._library = library
        self._embedder = embedder
        self._max_words = max_words
        self._overlap_sentences = overlap_sentences

    async def index(self, document: Document, content: bytes) -> int:
        """Makes the document findable; returns the number of its passages.

        Doing it again changes nothing. Raises INVALID_ARGUMENT for content that cannot be read and
        Superseded where a later version of the source was first.
        """
        passages = await asyncio.to_thread(self._passages, document, content)
        vectors = [
            await self._embedder.embed(
                [p.text for p in passages[first : first + _TEXTS_AT_ONCE]], Urgency.INGEST
            )
            for first in range(0, len(passages), _TEXTS_AT_ONCE)
        ]
        await self._library.index(document, passages, np.concatenate(vectors))
        return len(passages)

    def _passages(self, document: Document, content: bytes) -> list[Passage]:
        text = extract(document.media_type, content)
        spans = chunk(text, self._max_words, self._overlap_sentences)
        return domain.passages(document, text, spans)
