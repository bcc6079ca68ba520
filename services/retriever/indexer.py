"""From a document's bytes to passages that a search finds. Knows no queue and no store."""

import asyncio

import numpy as np

from services.retriever import document as domain
from services.retriever.chunk import chunk
from services.retriever.collections_store import CollectionsStore
from services.retriever.document import Document, Passage
from services.retriever.encoder_batcher import EncoderBatcher, Urgency
from services.retriever.extraction.extract import extract
from services.retriever.extraction.media_type import MediaType

_TEXTS_AT_ONCE = 256


class Indexer:
    """The pipeline of a document: extract, chunk, encode, store, each in its thread."""

    def __init__(
        self,
        collections: CollectionsStore,
        batcher: EncoderBatcher,
        max_words: int,
        overlap_sentences: int,
    ) -> None:
        self._collections = collections
        self._batcher = batcher
        self._max_words = max_words
        self._overlap_sentences = overlap_sentences

    async def index(self, document: Document, content: bytes) -> int:
        """Make the document findable; return the number of its passages.

        Doing it again changes nothing. Raises INVALID_ARGUMENT for content that cannot be read and
        Superseded where a later version of the source was first.
        """
        passages = await asyncio.to_thread(self._passages, document, content)
        vectors = [
            await self._batcher.encode(
                [p.text for p in passages[first : first + _TEXTS_AT_ONCE]], Urgency.INGEST
            )
            for first in range(0, len(passages), _TEXTS_AT_ONCE)
        ]
        await self._collections.index(document, passages, np.concatenate(vectors))
        return len(passages)

    def _passages(self, document: Document, content: bytes) -> list[Passage]:
        media_type = MediaType.of(document.media_type, document.source)
        text = extract(media_type, content)
        spans = chunk(text, self._max_words, self._overlap_sentences)
        return domain.passages(document, text, spans)
