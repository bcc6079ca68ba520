"""The gRPC adapter: checks requests, calls the collections, the encoder and the ingest queue."""

import asyncio
import re
import uuid
from typing import Any

import grpc

from mesh.context import REQUEST_ID
from mesh.errors import Code, MeshError, invalid
from mesh.names import MAX_NAME_CHARACTERS, is_name
from mesh.pb import retriever_pb2 as pb
from mesh.pb import retriever_pb2_grpc as pb_grpc
from mesh.rpc import request_context
from mesh.telemetry import inject, span
from services.retriever.collections_store import CollectionsStore
from services.retriever.document import Document, Hit, document_id, merged
from services.retriever.encoder_batcher import EncoderBatcher, Urgency
from services.retriever.encoder_inputs import embedding_inputs, query_windows
from services.retriever.encoder_tokenizer import EncoderTokenizer
from services.retriever.extraction.extract import check
from services.retriever.extraction.media_type import MediaType
from services.retriever.ingest_queue import IngestQueue

Context = grpc.aio.ServicerContext[Any, Any]

MAX_TOP_K = 100
_COLLECTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class RetrieverServicer(pb_grpc.RetrieverServicer):
    """One object serves all calls."""

    def __init__(
        self,
        collections: CollectionsStore,
        batcher: EncoderBatcher,
        ingest_queue: IngestQueue,
        *,
        model: str,
        tokenizer: EncoderTokenizer,
        max_document_bytes: int,
    ) -> None:
        self._collections = collections
        self._batcher = batcher
        self._ingest_queue = ingest_queue
        self._model = model
        self._tokenizer = tokenizer
        self._max_document_bytes = max_document_bytes

    async def Search(self, request: pb.SearchRequest, context: Context) -> pb.SearchResponse:
        """Return the passages nearest to the query."""
        _check_collection(request.collection)
        _check_text("query", request.query)
        if not 1 <= request.top_k <= MAX_TOP_K:
            raise invalid("top_k", f"top_k is {request.top_k}; it must be 1 to {MAX_TOP_K}.")
        self._collections.require(request.collection)
        async with request_context(context).limit():
            with span("encode query"):
                windows = await asyncio.to_thread(query_windows, self._tokenizer, request.query)
                vectors = await self._batcher.encode(windows, Urgency.SEARCH)
            with span("search index", top_k=request.top_k):
                found = [
                    await self._collections.search(request.collection, vector, request.top_k)
                    for vector in vectors
                ]
        return pb.SearchResponse(passages=map(_passage, merged(found, request.top_k)))

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        """Return one unit vector for each input."""
        async with request_context(context).limit():
            inputs = await asyncio.to_thread(embedding_inputs, self._tokenizer, request)
            vectors = await self._batcher.encode(inputs.sequences, Urgency.EMBED)
        return pb.EmbedResponse(
            model=self._model,
            vectors=[pb.Vector(values=row) for row in vectors.tolist()],
            prompt_tokens=sum(map(len, inputs.sequences)),
            truncated_tokens=inputs.num_truncated,
        )

    async def Ingest(self, request: pb.IngestRequest, context: Context) -> pb.IngestResponse:
        """Queue a document; it is safe once this answers."""
        _check_collection(request.collection)
        _check_source(request.source)
        size, most = len(request.content), self._max_document_bytes
        if not 1 <= size <= most:
            raise invalid("content", f"content has {size} bytes; it must have 1 to {most}.")
        media_type = MediaType.of(request.media_type, request.source)
        called = request_context(context)
        headers = {REQUEST_ID: called.request_id}
        inject(headers)
        async with called.limit():
            await asyncio.to_thread(check, media_type, request.content)
            document = Document(
                ingestion_id=uuid.uuid4().hex,
                document_id=await asyncio.to_thread(
                    document_id, request.collection, request.source, request.content
                ),
                collection=request.collection,
                source=request.source,
                media_type=str(media_type),
            )
            await self._ingest_queue.submit(document, request.content, headers)
        return pb.IngestResponse(
            ingestion_id=document.ingestion_id, document_id=document.document_id
        )

    async def IngestionStatus(
        self, request: pb.IngestionStatusRequest, context: Context
    ) -> pb.IngestionStatusResponse:
        """Return how far an ingestion is."""
        async with request_context(context).limit():
            status = await self._collections.status(request.ingestion_id)
        if status is None:
            raise MeshError(
                Code.NOT_FOUND, "ingestion_id is of no known ingestion.", field="ingestion_id"
            )
        return pb.IngestionStatusResponse(
            state=pb.IngestionState.Name(status.state),
            passages=status.passages,
            error=status.error,
        )

    async def ListCollections(
        self, request: pb.ListCollectionsRequest, context: Context
    ) -> pb.ListCollectionsResponse:
        """Return all collections in which something has been indexed, by name."""
        return pb.ListCollectionsResponse(
            collections=[
                pb.Collection(name=c.collection, documents=c.documents, passages=c.passages)
                for c in self._collections.summaries()
            ]
        )

    async def DeleteDocument(
        self, request: pb.DeleteDocumentRequest, context: Context
    ) -> pb.DeleteDocumentResponse:
        """Delete a document; no search finds it once this answers."""
        _check_collection(request.collection)
        if bool(request.source) == bool(request.document_id):
            raise invalid("source", "source or document_id must be given, one of them.")
        if request.source:
            _check_source(request.source)
        async with request_context(context).limit():
            deleted = await self._collections.delete(
                request.collection, source=request.source, document_id=request.document_id
            )
        if deleted is None:
            field = "source" if request.source else "document_id"
            raise MeshError(Code.NOT_FOUND, f"{field} is of no document here.", field=field)
        return pb.DeleteDocumentResponse(document_id=deleted)

    async def DeleteCollection(
        self, request: pb.DeleteCollectionRequest, context: Context
    ) -> pb.DeleteCollectionResponse:
        """Delete a collection; no search finds it once this answers."""
        _check_collection(request.collection)
        async with request_context(context).limit():
            deleted = await self._collections.delete_collection(request.collection)
        if deleted is None:
            raise MeshError(
                Code.NOT_FOUND,
                f"collection {request.collection!r} does not exist.",
                field="collection",
            )
        return pb.DeleteCollectionResponse(documents=deleted)


def _passage(hit: Hit) -> pb.Passage:
    passage = hit.passage
    return pb.Passage(
        id=passage.id,
        document_id=passage.document_id,
        source=passage.source,
        text=passage.text,
        score=hit.score,
        start=passage.start,
        end=passage.end,
    )


def _check_collection(name: str) -> None:
    if not _COLLECTION.fullmatch(name):
        raise invalid(
            "collection",
            "collection must be 1 to 64 letters, digits, dots, dashes and underscores, "
            "with a letter or digit first.",
        )


def _check_source(source: str) -> None:
    if len(source) > MAX_NAME_CHARACTERS or not is_name(source):
        raise invalid(
            "source",
            f"source must be 1 to {MAX_NAME_CHARACTERS} characters, not blank, without control "
            "characters and marks of direction.",
        )


def _check_text(field: str, text: str) -> None:
    if not text.strip():
        raise invalid(field, f"{field} is empty.")
