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
    ingest_queue = IngestQueue(bus, collections, Indexer(collections, batcher, 60, 0), workers=4)
    lifecycle.spawn(ingest_queue.run(), "ingest_queue")
    servicer = RetrieverServicer(
        collections,
        batcher,
        ingest_queue,
        model=real_encoder.name,
        count=real_encoder.count,
        max_document_bytes=1000,
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


def document(**changed: object) -> pb.IngestRequest:
    return pb.IngestRequest(
        **{"collection": "docs", "source": "a.txt", "content": b"words", **changed}
    )


def question(**changed: object) -> pb.SearchRequest:
    return pb.SearchRequest(**{"collection": "docs", "query": "words", "top_k": 4, **changed})


MISTAKES: list[tuple[str, Message, Code, str]] = [
    ("Ingest", document(collection="no spaces"), Code.INVALID_ARGUMENT, "collection"),
    ("Ingest", document(source=""), Code.INVALID_ARGUMENT, "source"),
    ("Ingest", document(source="a\n.txt"), Code.INVALID_ARGUMENT, "source"),
    ("Ingest", document(content=b""), Code.INVALID_ARGUMENT, "content"),
    ("Ingest", document(content=b"x" * 1001), Code.INVALID_ARGUMENT, "content"),
    ("Ingest", document(content=b"\xff\xff"), Code.INVALID_ARGUMENT, "content"),
    ("Ingest", document(source="a.exe"), Code.INVALID_ARGUMENT, "media_type"),
    ("Ingest", document(media_type="image/png"), Code.INVALID_ARGUMENT, "media_type"),
    ("Search", question(collection="nowhere"), Code.NOT_FOUND, "collection"),
    ("Search", question(collection="../x"), Code.INVALID_ARGUMENT, "collection"),
    ("Search", question(query=" \n"), Code.INVALID_ARGUMENT, "query"),
    ("Search", question(query="x" * 32_769), Code.INVALID_ARGUMENT, "query"),
    ("Search", question(top_k=0), Code.INVALID_ARGUMENT, "top_k"),
    ("Search", question(top_k=101), Code.INVALID_ARGUMENT, "top_k"),
    ("Embed", pb.EmbedRequest(), Code.INVALID_ARGUMENT, "texts"),
    ("Embed", pb.EmbedRequest(texts=["x"] * 257), Code.INVALID_ARGUMENT, "texts"),
    ("Embed", pb.EmbedRequest(texts=["x", ""]), Code.INVALID_ARGUMENT, "texts[1]"),
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
