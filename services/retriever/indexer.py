"""From a document's bytes to passages that a search finds. Knows no queue and no store."""

import asyncio

import numpy as np

from services.retriever import document as domain
from services.retriever.chunk import Size, chunk, halves
from services.retriever.collections_store import CollectionsStore
from services.retriever.document import Document, Passage, Span
from services.retriever.encoder_batcher import EncoderBatcher, Urgency
from services.retriever.encoder_tokenizer import EncoderTokenizer
from services.retriever.extraction.extract import extract
from services.retriever.extraction.media_type import MediaType

_TEXTS_AT_ONCE = 256


class Indexer:
    """The pipeline of a document: extract, chunk, encode, store, each in its thread."""

    def __init__(
        self,
        collections: CollectionsStore,
        batcher: EncoderBatcher,
        tokenizer: EncoderTokenizer,
        max_words: int,
        overlap_sentences: int,
    ) -> None:
        self._collections = collections
        self._batcher = batcher
        self._tokenizer = tokenizer
        self._max_words = max_words
        self._overlap_sentences = overlap_sentences

    async def index(self, document: Document, content: bytes) -> int:
        """Make the document findable; return the number of its passages.

        Doing it again changes nothing. Raises INVALID_ARGUMENT for content that cannot be read and
        Superseded where a later version of the source was first.
        """
        passages, sequences = await asyncio.to_thread(self._passages, document, content)
        vectors = [
            await self._batcher.encode(sequences[first : first + _TEXTS_AT_ONCE], Urgency.INGEST)
            for first in range(0, len(sequences), _TEXTS_AT_ONCE)
        ]
        await self._collections.index(document, passages, np.concatenate(vectors))
        return len(passages)

    def _passages(
        self, document: Document, content: bytes
    ) -> tuple[list[Passage], list[list[int]]]:
        """Return the passages and the encoder's tokens of each, which are all of it."""
        media_type = MediaType.of(document.media_type, document.source)
        text = extract(media_type, content)
        tokenizer = self._tokenizer
        size = Size(text, self._max_words, tokenizer.starts(text), tokenizer.max_content)
        spans, sequences = self._embeddable(text, chunk(text, size, self._overlap_sentences))
        return domain.passages(document, text, spans), sequences

    def _embeddable(self, text: str, spans: list[Span]) -> tuple[list[Span], list[list[int]]]:
        """Return passages that the encoder reads whole: alone they may have more tokens."""
        sequences = self._tokenizer.encode([text[span.start : span.end] for span in spans])
        fitting: list[tuple[Span, list[int]]] = []
        for span, ids in zip(spans, sequences, strict=True):
            if len(ids) <= self._tokenizer.limit or span.end - span.start < 2:
                fitting.append((span, self._tokenizer.cut(ids, self._tokenizer.limit)))
            else:
                fitting += zip(*self._embeddable(text, list(halves(text, span))), strict=True)
        return [span for span, _ in fitting], [ids for _, ids in fitting]
