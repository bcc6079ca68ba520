"""The service over gRPC, with the real encoder and a real bus."""

import runpy
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from google.protobuf.message import Message

from mesh import rpc
from mesh.bus import Bus
from mesh.context import RequestContext
from mesh.errors import Code, MeshError
from mesh.lifecycle import Lifecycle
from mesh.pb import retriever_pb2 as pb
from mesh.pb.retriever_pb2_grpc import RetrieverStub, add_RetrieverServicer_to_server
from services.retriever.collections_store import CollectionsStore
from services.retriever.encoder import Encoder
from services.retriever.encoder_batcher import EncoderBatcher
from services.retriever.indexer import Indexer
from services.retriever.ingest_queue import IngestQueue
from services.retriever.servicer import RetrieverServicer
from tests.retriever.parts import until
from tests.retriever.pdf import pdf

Stub = RetrieverStub
FOX = "The fox hunts at night. It lives in a den under the old oak."
BRIDGE = "The stone bridge over the Marl was opened in 1904 by the mayor of Tessen."
BREAD = "Rye bread needs a sourdough starter and a long, slow rise."
LIGHT = "The lighthouse lamp is turned by clockwork that is wound every morning."


@pytest.fixture
async def address(bus: Bus, real_encoder: Encoder, tmp_path: Path) -> AsyncIterator[str]:
    lifecycle = Lifecycle()
    collections = await CollectionsStore.open(tmp_path, real_encoder.name, real_encoder.dimensions)
    lifecycle.stack.push_async_callback(collections.close)
    batcher = await lifecycle.stack.enter_async_context(EncoderBatcher(real_encoder.encode))
    indexer = Indexer(collections, batcher, real_encoder.tokenizer, 60, 0)
    ingest_queue = IngestQueue(bus, collections, indexer, workers=4)
    lifecycle.spawn(ingest_queue.run(), "ingest_queue")
    servicer = RetrieverServicer(
        collections,
        batcher,
        ingest_queue,
        model=real_encoder.name,
        tokenizer=real_encoder.tokenizer,
        max_document_bytes=4000,
    )
    port = await rpc.serve(
        lifecycle,
        "127.0.0.1:0",
        [lambda server: add_RetrieverServicer_to_server(servicer, server)],
        ["mesh.v1.Retriever"],
    )
    yield f"127.0.0.1:{port}"
    await lifecycle.close()


@pytest.fixture
async def stub(address: str) -> AsyncIterator[Stub]:
    async with rpc.channel(address) as channel:
        yield RetrieverStub(channel)


async def ingest(stub: Stub, source: str, content: bytes) -> pb.IngestionStatusResponse:
    """Queues a document in `docs` and returns its last state."""
    request = pb.IngestRequest(collection="docs", source=source, content=content)
    queued = await stub.Ingest(request)
    asked = pb.IngestionStatusRequest(ingestion_id=queued.ingestion_id)
    reply = pb.IngestionStatusResponse()

    async def is_over() -> bool:
        nonlocal reply
        reply = await stub.IngestionStatus(asked)
        return reply.state != pb.INGESTION_STATE_QUEUED

    await until(is_over)
    return reply


async def best(stub: Stub, query: str) -> pb.Passage:
    reply = await stub.Search(pb.SearchRequest(collection="docs", query=query, top_k=1))
    return reply.passages[0]


async def test_four_media_types_are_found_by_meaning(stub: Stub) -> None:
    """Each question finds the passage that answers it, its file's name and its place."""
    html = f"<html><script>var bread = 'dough';</script><p>{BREAD}</p></html>"
    for source, content in {
        "fox.txt": FOX.encode(),
        "bridge.md": f"# A *bridge*\n\n{BRIDGE}\n".encode(),
        "bread.html": html.encode(),
        "light.pdf": pdf(LIGHT, "Nothing else is on this page."),
    }.items():
        assert (await ingest(stub, source, content)).state == pb.INGESTION_STATE_INDEXED
    for query, source, text in (
        ("Where does the fox sleep?", "fox.txt", FOX),
        ("When could people first cross the river?", "bridge.md", BRIDGE),
        ("How do I bake a loaf?", "bread.html", BREAD),
        ("What makes the beacon rotate?", "light.pdf", LIGHT),
    ):
        found = await best(stub, query)
        assert found.source == source
        assert text in found.text
        assert found.end - found.start == len(found.text)
        assert 0.2 < found.score <= 1
    listed = await stub.ListCollections(pb.ListCollectionsRequest())
    assert [(c.name, c.documents, c.passages) for c in listed.collections] == [("docs", 4, 4)]


async def test_a_source_ingested_again_is_replaced(stub: Stub) -> None:
    """The new content is found, the old one is not; the same content keeps its document id."""
    await ingest(stub, "a.txt", FOX.encode())
    old = await best(stub, "fox")
    await ingest(stub, "a.txt", BRIDGE.encode())
    reply = await stub.Search(pb.SearchRequest(collection="docs", query="fox", top_k=9))
    assert [p.text for p in reply.passages] == [BRIDGE]
    await ingest(stub, "a.txt", FOX.encode())
    assert (await best(stub, "fox")).document_id == old.document_id


async def test_a_document_that_cannot_be_read_fails_in_words(stub: Stub) -> None:
    """The state says why."""
    reply = await ingest(stub, "a.pdf", b"%PDF-1.7 and nothing else")
    assert reply.state == pb.INGESTION_STATE_FAILED
    assert "broken" in reply.error


async def test_embeddings_have_unit_length(stub: Stub) -> None:
    """One vector per text, the same as in a batch, under the encoder's name."""
    reply = await stub.Embed(pb.EmbedRequest(texts=["a fox", "a much longer text " * 20, "bread"]))
    vectors = np.array([v.values for v in reply.vectors])
    assert reply.model == "all-MiniLM-L6-v2"
    assert vectors.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    alone = await stub.Embed(pb.EmbedRequest(texts=["bread"]))
    np.testing.assert_allclose(vectors[2], alone.vectors[0].values, atol=1e-5)
    assert alone.prompt_tokens == 3


async def test_no_text_is_cut_in_silence(stub: Stub) -> None:
    """One over the limit is refused by its tokens; where a cut is asked for, it is told."""
    alike = [LONG + "alpha", LONG + "omega"]
    with pytest.raises(MeshError, match=r"texts\[0\] has 303 tokens; .* at most 256") as caught:
        await rpc.call(stub.Embed, pb.EmbedRequest(texts=alike), RequestContext.start(10))
    assert caught.value.field == "texts[0]"
    for truncation, most, read in (
        (pb.TRUNCATION_END, 0, 256),
        (pb.TRUNCATION_START, 0, 256),
        (pb.TRUNCATION_START, 10, 10),
    ):
        request = pb.EmbedRequest(texts=alike, truncation=truncation, max_tokens=most)
        reply = await stub.Embed(request)
        assert (reply.prompt_tokens, reply.truncated_tokens) == (2 * read, 2 * (303 - read))
        same = reply.vectors[0].values == reply.vectors[1].values
        assert same == (truncation == pb.TRUNCATION_END)
    longest = "word " * 254
    assert (await stub.Embed(pb.EmbedRequest(texts=[longest]))).prompt_tokens == 256


async def test_token_ids_stand_for_their_text(stub: Stub, real_encoder: Encoder) -> None:
    """With the special tokens around them and without."""
    (framed,) = real_encoder.tokenizer.encode(["a fox in the den"])
    request = pb.EmbedRequest(token_ids=tokens(framed, framed[1:-1]))
    vectors = [v.values for v in (await stub.Embed(request)).vectors]
    text = await stub.Embed(pb.EmbedRequest(texts=["a fox in the den"]))
    np.testing.assert_allclose(vectors[0], text.vectors[0].values, atol=1e-5)
    assert vectors[0] == vectors[1]


RUSSIAN = (
    "Сегодня мы обсуждаем устройство городской библиотеки, её фонды, читальные залы, расписание, "
    "правила выдачи книг, обязанности сотрудников, историю здания, планы ремонта, каталоги, "
    "электронные ресурсы, детские кружки, литературные вечера, выставки редких изданий, "
    "пожертвования, бюджет, охрану, гардероб, буфет, парковку. Пароль от сейфа директора таков: "
    "фиолетовый бегемот."
)


async def test_the_end_of_a_long_passage_is_found(stub: Stub, real_encoder: Encoder) -> None:
    """In a script that costs many tokens a word, passages are cut where the encoder would stop."""
    await ingest(stub, "library.txt", RUSSIAN.encode())
    query = pb.SearchRequest(collection="docs", query="фиолетовый бегемот", top_k=9)
    passages = (await stub.Search(query)).passages
    assert "бегемот" in passages[0].text and len(passages) > 1
    lengths = map(len, real_encoder.tokenizer.encode([p.text for p in passages]))
    assert max(lengths) <= real_encoder.tokenizer.limit


@pytest.mark.parametrize("times", [1, 20, 4_000])
async def test_a_query_of_any_length_is_answered(stub: Stub, times: int) -> None:
    """What is asked at the end of a long message, or at its start, finds its passage."""
    for name, text in (("fox", FOX), ("bridge", BRIDGE), ("bread", BREAD)):
        await ingest(stub, f"{name}.txt", text.encode())
    story = "We walked along the beach and talked about the weather of this week. " * times
    for query in (f"{story} When was the bridge opened?", f"When was the bridge opened? {story}"):
        found = await stub.Search(pb.SearchRequest(collection="docs", query=query, top_k=2))
        assert len({p.id for p in found.passages}) == 2
        assert found.passages[0].source == "bridge.txt"


async def test_a_deleted_document_is_found_no_more(stub: Stub) -> None:
    """By its name or its id; the collection goes with its last document, and may come again."""
    fox = await stub.Ingest(document(source="fox.txt", content=FOX.encode()))
    for name, text in (("fox", FOX), ("bridge", BRIDGE)):
        await ingest(stub, f"{name}.txt", text.encode())

    async def sources() -> set[str]:
        query = pb.SearchRequest(collection="docs", query="fox", top_k=9)
        return {p.source for p in (await stub.Search(query)).passages}

    assert await sources() == {"fox.txt", "bridge.txt"}
    deleted = await stub.DeleteDocument(deletion(source="fox.txt"))
    assert deleted.document_id == fox.document_id
    assert await sources() == {"bridge.txt"}
    bridge = await stub.Ingest(document(source="bridge.txt", content=BRIDGE.encode()))
    await stub.DeleteDocument(deletion(document_id=bridge.document_id))
    assert not (await stub.ListCollections(pb.ListCollectionsRequest())).collections
    await ingest(stub, "bread.txt", BREAD.encode())
    assert await sources() == {"bread.txt"}
    gone = await stub.DeleteCollection(pb.DeleteCollectionRequest(collection="docs"))
    assert gone.documents == 1
    with pytest.raises(MeshError) as caught:
        await rpc.call(stub.Search, question(), RequestContext.start(10))
    assert caught.value.code is Code.NOT_FOUND


def document(**changed: object) -> pb.IngestRequest:
    return pb.IngestRequest(
        **{"collection": "docs", "source": "a.txt", "content": b"words", **changed}
    )


def question(**changed: object) -> pb.SearchRequest:
    return pb.SearchRequest(**{"collection": "docs", "query": "words", "top_k": 4, **changed})


def deletion(**changed: str) -> pb.DeleteDocumentRequest:
    return pb.DeleteDocumentRequest(collection="docs", **changed)


def tokens(*sequences: list[int]) -> list[pb.EncoderTokens]:
    return [pb.EncoderTokens(ids=ids) for ids in sequences]


LONG = "the same words " * 100
EMPTY_TOKENS = pb.EmbedRequest(token_ids=tokens([5], []))
ALIEN_TOKENS = pb.EmbedRequest(token_ids=tokens([30_522]))
BOTH = pb.EmbedRequest(texts=["x"], token_ids=tokens([5]))
MISTAKES: list[tuple[str, Message, Code, str]] = [
    ("Ingest", document(collection="no spaces"), Code.INVALID_ARGUMENT, "collection"),
    ("Ingest", document(source=""), Code.INVALID_ARGUMENT, "source"),
    ("Ingest", document(source="a\n.txt"), Code.INVALID_ARGUMENT, "source"),
    ("Ingest", document(content=b""), Code.INVALID_ARGUMENT, "content"),
    ("Ingest", document(content=b"x" * 4001), Code.INVALID_ARGUMENT, "content"),
    ("Ingest", document(content=b"\xff\xff"), Code.INVALID_ARGUMENT, "content"),
    ("Ingest", document(source="a.exe"), Code.INVALID_ARGUMENT, "media_type"),
    ("Ingest", document(media_type="image/png"), Code.INVALID_ARGUMENT, "media_type"),
    ("Search", question(collection="nowhere"), Code.NOT_FOUND, "collection"),
    ("Search", question(collection="../x"), Code.INVALID_ARGUMENT, "collection"),
    ("Search", question(query=" \n"), Code.INVALID_ARGUMENT, "query"),
    ("Search", question(top_k=0), Code.INVALID_ARGUMENT, "top_k"),
    ("Search", question(top_k=101), Code.INVALID_ARGUMENT, "top_k"),
    ("Embed", pb.EmbedRequest(), Code.INVALID_ARGUMENT, "texts"),
    ("Embed", pb.EmbedRequest(texts=["x"] * 2049), Code.INVALID_ARGUMENT, "texts"),
    ("Embed", pb.EmbedRequest(texts=["x", ""]), Code.INVALID_ARGUMENT, "texts[1]"),
    ("Embed", pb.EmbedRequest(texts=["x", LONG]), Code.INVALID_ARGUMENT, "texts[1]"),
    ("Embed", EMPTY_TOKENS, Code.INVALID_ARGUMENT, "token_ids[1]"),
    ("Embed", ALIEN_TOKENS, Code.INVALID_ARGUMENT, "token_ids[0]"),
    ("Embed", BOTH, Code.INVALID_ARGUMENT, "token_ids"),
    ("Embed", pb.EmbedRequest(texts=["x"], max_tokens=257), Code.INVALID_ARGUMENT, "max_tokens"),
    ("Embed", pb.EmbedRequest(texts=["x"], max_tokens=2), Code.INVALID_ARGUMENT, "max_tokens"),
    ("DeleteDocument", deletion(), Code.INVALID_ARGUMENT, "source"),
    ("DeleteDocument", deletion(source="a", document_id="b"), Code.INVALID_ARGUMENT, "source"),
    ("DeleteDocument", deletion(source="a"), Code.NOT_FOUND, "source"),
    ("DeleteDocument", deletion(document_id="a"), Code.NOT_FOUND, "document_id"),
    ("DeleteCollection", pb.DeleteCollectionRequest(), Code.INVALID_ARGUMENT, "collection"),
    (
        "DeleteCollection",
        pb.DeleteCollectionRequest(collection="docs"),
        Code.NOT_FOUND,
        "collection",
    ),
    ("IngestionStatus", pb.IngestionStatusRequest(), Code.NOT_FOUND, "ingestion_id"),
]


async def test_bad_input_names_its_field(stub: Stub) -> None:
    """Every mistake of a caller is theirs to see, with the field that holds it."""
    for method, request, code, field in MISTAKES:
        with pytest.raises(MeshError) as caught:
            await rpc.call(getattr(stub, method), request, RequestContext.start(10))
        assert (caught.value.code, caught.value.field) == (code, field), (method, request)


async def test_the_example_runs(
    address: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ingests, embeds and finds the sentence that answers its question."""
    monkeypatch.setattr(sys, "argv", ["retriever_direct.py", address])
    example = runpy.run_path("examples/retriever_direct.py")
    await example["main"](address)
    assert "lighthouse.txt: The Aldermoor" in capsys.readouterr().out
