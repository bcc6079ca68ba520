"""The retriever over gRPC: documents, passages and embeddings."""

import grpc

from mesh import rpc
from mesh.context import RequestContext
from mesh.pb import retriever_pb2 as pb
from mesh.pb import retriever_pb2_grpc as pb_grpc
from services.gateway.clients.field_names import prefixed, translated
from services.gateway.domain.documents import Collection, Ingestion, Passage
from services.gateway.domain.embeddings import EmbeddingInputs, Embeddings

SEARCH_LIMIT_S = 30.0
# an embedding of many texts, or a document that must reach the disk
BATCH_LIMIT_S = 120.0

_TRUNCATIONS = {
    None: pb.TRUNCATION_UNSPECIFIED,
    "end": pb.TRUNCATION_END,
    "start": pb.TRUNCATION_START,
}
_STATES = {
    pb.INGESTION_STATE_QUEUED: "queued",
    pb.INGESTION_STATE_INDEXED: "indexed",
    pb.INGESTION_STATE_FAILED: "failed",
}


class GrpcRetriever:
    """See `ports.Retriever`, `ports.Encoder` and `ports.DocumentStore`."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = pb_grpc.RetrieverStub(channel)

    async def search(
        self, collection: str, query: str, top_k: int, context: RequestContext
    ) -> list[Passage]:
        """Return the nearest passages, best first."""
        request = pb.SearchRequest(collection=collection, query=query, top_k=top_k)
        with prefixed("retrieval"):
            reply = await rpc.call(self._stub.Search, request, context, limit_s=SEARCH_LIMIT_S)
        return [Passage(p.id, p.source, p.text, p.score, p.start, p.end) for p in reply.passages]

    async def embed(self, inputs: EmbeddingInputs, context: RequestContext) -> Embeddings:
        """Return one vector of unit length per input, and the tokens that were read."""
        request = pb.EmbedRequest(
            texts=inputs.texts,
            token_ids=[pb.EncoderTokens(ids=ids) for ids in inputs.token_ids],
            truncation=_TRUNCATIONS[inputs.truncation],
            max_tokens=inputs.max_tokens,
        )
        names = {
            "texts": "input",
            "token_ids": "input",
            "max_tokens": "truncate_prompt_tokens",
        }
        if len(inputs) == 1:
            names |= {"texts[0]": "input", "token_ids[0]": "input"}
        with translated(names):
            reply = await rpc.call(self._stub.Embed, request, context, limit_s=BATCH_LIMIT_S)
        vectors = [vector.values for vector in reply.vectors]
        return Embeddings(vectors, reply.prompt_tokens, reply.truncated_tokens)

    async def ingest(
        self,
        collection: str,
        source: str,
        media_type: str,
        content: bytes,
        context: RequestContext,
    ) -> tuple[str, str]:
        """Queue a document; return the ids of its ingestion and of itself."""
        request = pb.IngestRequest(
            collection=collection, source=source, media_type=media_type, content=content
        )
        reply = await rpc.call(self._stub.Ingest, request, context, limit_s=BATCH_LIMIT_S)
        return reply.ingestion_id, reply.document_id

    async def ingestion(self, ingestion_id: str, context: RequestContext) -> Ingestion:
        """Return how far an ingestion is; raises NOT_FOUND."""
        request = pb.IngestionStatusRequest(ingestion_id=ingestion_id)
        reply = await rpc.call(self._stub.IngestionStatus, request, context, limit_s=SEARCH_LIMIT_S)
        return Ingestion(_STATES.get(reply.state, "queued"), reply.passages, reply.error)

    async def collections(self, context: RequestContext) -> list[Collection]:
        """Return all collections that hold something."""
        request = pb.ListCollectionsRequest()
        reply = await rpc.call(self._stub.ListCollections, request, context, limit_s=SEARCH_LIMIT_S)
        return [Collection(c.name, c.documents, c.passages) for c in reply.collections]

    async def delete_document(
        self, collection: str, source: str, document_id: str, context: RequestContext
    ) -> str:
        """Delete a document by its source or its id; return its id. Raises NOT_FOUND."""
        request = pb.DeleteDocumentRequest(
            collection=collection, source=source, document_id=document_id
        )
        reply = await rpc.call(self._stub.DeleteDocument, request, context, limit_s=SEARCH_LIMIT_S)
        return reply.document_id

    async def delete_collection(self, collection: str, context: RequestContext) -> None:
        """Delete all documents of a collection; raises NOT_FOUND."""
        request = pb.DeleteCollectionRequest(collection=collection)
        await rpc.call(self._stub.DeleteCollection, request, context, limit_s=SEARCH_LIMIT_S)
