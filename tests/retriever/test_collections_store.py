"""The store and the indexes stay in step."""

import asyncio
from pathlib import Path

import pytest

from mesh.errors import Code, MeshError
from services.retriever.collections_store import CollectionsStore
from services.retriever.document import Document, Passage, State, Summary
from services.retriever.store import Superseded
from tests.retriever.parts import DIMENSIONS, a_document, count_words


async def put(collections: CollectionsStore, document: Document, *texts: str) -> None:
    await collections.queue(document)
    made = [
        Passage(f"{document.document_id}-{i}", document.document_id, document.source, text, 0, 1)
        for i, text in enumerate(texts)
    ]
    await collections.index(document, made, count_words(texts))


async def texts(collections: CollectionsStore, query: str, top_k: int = 10) -> list[str]:
    hits = await collections.search("docs", count_words([query])[0], top_k)
    return [hit.passage.text for hit in hits]


async def test_indexed_means_found(collections: CollectionsStore) -> None:
    """Once the state says so, a search finds the passage."""
    await put(collections, a_document("i1"), "red boats", "blue birds")
    status = await collections.status("i1")
    assert status is not None
    assert status.state is State.INDEXED
    assert await texts(collections, "birds", 1) == ["blue birds"]


async def test_a_new_version_replaces_the_old_one(collections: CollectionsStore) -> None:
    """Nothing of the old text is found, and a version that comes too late changes nothing."""
    late = a_document("i1", "v1")
    await collections.queue(late)
    await put(collections, a_document("i2", "v2"), "new words")
    with pytest.raises(Superseded):
        await put(collections, late, "old words")
    assert await texts(collections, "words") == ["new words"]
    await put(collections, a_document("i3", "v1"), "old words")
    assert await texts(collections, "words") == ["old words"]
    assert collections.summaries() == [Summary("docs", 1, 1)]


async def test_a_store_that_opens_again_finds_the_same(tmp_path: Path) -> None:
    """Everything is read back, in the same order."""
    for opening in range(2):
        collections = await CollectionsStore.open(tmp_path, "words", DIMENSIONS)
        if opening == 0:
            await put(collections, a_document("i1"), "red boats", "blue birds")
            await put(collections, a_document("i2", source="b.txt"), "red birds")
        assert await texts(collections, "red") == ["red boats", "red birds", "blue birds"]
        assert collections.summaries() == [Summary("docs", 2, 3)]
        await collections.close()
        await collections.close()


async def test_a_search_during_replacements_sees_one_version(collections: CollectionsStore) -> None:
    """However writes and searches interleave, a result never mixes versions."""
    await put(collections, a_document("i0", "v0"), *["v0 word"] * 20)

    async def write() -> None:
        for n in range(1, 20):
            await put(collections, a_document(f"i{n}", f"v{n}"), *[f"v{n} word"] * 20)

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        writing = group.create_task(write())
        while not writing.done():
            found = await texts(collections, "word", 20)
            assert (len(found), len(set(found))) == (20, 1)
            await asyncio.sleep(0)


async def test_an_unknown_collection_is_not_found(collections: CollectionsStore) -> None:
    """The error names the field."""
    with pytest.raises(MeshError, match="'nowhere'") as caught:
        await collections.search("nowhere", count_words(["x"])[0], 1)
    assert (caught.value.code, caught.value.field) == (Code.NOT_FOUND, "collection")
