"""From bytes to hits."""

import pytest

from mesh.errors import MeshError
from services.retriever.collections_store import CollectionsStore
from services.retriever.encoder_batcher import EncoderBatcher
from services.retriever.indexer import Indexer
from tests.retriever.parts import a_document, count_words


async def test_passages_lie_where_they_say(
    collections: CollectionsStore, batcher: EncoderBatcher
) -> None:
    """A hit's text is the slice of the extracted text that its offsets name."""
    text = "The owl sleeps by day.\r\n\r\nThe fox hunts by night. The hare runs."
    document = a_document("i1")
    await collections.queue(document)
    count = await Indexer(collections, batcher, 8, 0).index(document, text.encode())
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
    assert await Indexer(collections, batcher, 8, 0).index(document, text.encode()) == 700
    hits = await collections.search("docs", count_words(["number"])[0], 700)
    by_place = sorted((hit.passage for hit in hits), key=lambda passage: passage.start)
    assert [p.id for p in by_place] == [f"a.txt-v1-{n}" for n in range(700)]
    assert by_place[500].text == "Sentence number 500 says something."


async def test_what_cannot_be_read_leaves_nothing(
    collections: CollectionsStore, batcher: EncoderBatcher
) -> None:
    """The error is the document's and no collection appears."""
    with pytest.raises(MeshError, match="broken"):
        await Indexer(collections, batcher, 8, 0).index(
            a_document("i1", media_type="application/pdf"), b"%PDF-"
        )
    assert collections.summaries() == []
