"""From bytes to hits."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.errors import MeshError
from services.retriever.collections_store import CollectionsStore
from services.retriever.document import Document
from services.retriever.encoder import Encoder
from services.retriever.encoder_batcher import EncoderBatcher
from services.retriever.encoder_tokenizer import EncoderTokenizer
from services.retriever.indexer import Indexer
from tests.retriever.parts import WordTokenizer, a_document, count_words


async def index(
    collections: CollectionsStore, batcher: EncoderBatcher, document: Document, content: bytes
) -> int:
    """Make a document findable in passages of eight words."""
    return await Indexer(collections, batcher, WordTokenizer(), 8, 0).index(document, content)


async def test_passages_lie_where_they_say(
    collections: CollectionsStore, batcher: EncoderBatcher
) -> None:
    """A hit's text is the slice of the extracted text that its offsets name."""
    text = "The owl sleeps by day.\r\n\r\nThe fox hunts by night. The hare runs."
    document = a_document("i1")
    await collections.queue(document)
    count = await index(collections, batcher, document, text.encode())
    hits = await collections.search("docs", count_words(["fox hunts"])[0], 5)
    extracted = text.replace("\r\n", "\n")
    assert len(hits) == count == 2
    assert hits[0].passage.text == "The fox hunts by night. The hare runs."
    for hit in hits:
        assert extracted[hit.passage.start : hit.passage.end] == hit.passage.text
        assert hit.passage.source == "a.txt"


async def test_more_passages_than_one_ticket_holds(
    collections: CollectionsStore, batcher: EncoderBatcher
) -> None:
    """A long document is embedded in several tickets and stored whole, in order."""
    text = " ".join(f"Sentence number {n} says something." for n in range(700))
    document = a_document("i1")
    await collections.queue(document)
    assert await index(collections, batcher, document, text.encode()) == 700
    hits = await collections.search("docs", count_words(["number"])[0], 700)
    by_place = sorted((hit.passage for hit in hits), key=lambda passage: passage.start)
    assert [p.id for p in by_place] == [f"a.txt-v1-{n}" for n in range(700)]
    assert by_place[500].text == "Sentence number 500 says something."


async def test_what_cannot_be_read_leaves_nothing(
    collections: CollectionsStore, batcher: EncoderBatcher
) -> None:
    """The error is the document's and no collection appears."""
    with pytest.raises(MeshError, match="broken"):
        await index(collections, batcher, a_document("i1", media_type="application/pdf"), b"%PDF-")
    assert collections.summaries() == []


@settings(deadline=None, max_examples=60)
@given(text=st.text(max_size=600), limit=st.integers(6, 40), overlap=st.integers(0, 2))
def test_all_of_each_passage_is_embedded(
    text: str, limit: int, overlap: int, real_encoder: Encoder
) -> None:
    """By the encoder's real tokens, however small its limit; nothing but blanks is left out."""
    tokenizer = EncoderTokenizer(real_encoder.tokenizer._tokenizer, limit)
    indexer = Indexer(None, None, tokenizer, 60, overlap)  # type: ignore[arg-type]
    if not text.replace("\0", "").strip():
        return
    passages, sequences = indexer._passages(a_document("i1"), text.encode())
    assert tokenizer.encode([p.text for p in passages]) == sequences
    assert max(map(len, sequences)) <= limit
    extracted = text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")
    covered = {place for p in passages for place in range(p.start, p.end)}
    assert all(place in covered or c.isspace() for place, c in enumerate(extracted))
