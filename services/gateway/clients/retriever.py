"""The retriever over gRPC: documents, passages and embeddings."""

from collections.abc import Sequence

import grpc

from mesh import rpc
from mesh.context import RequestContext
from mesh.pb import retriever_pb2 as pb
from mesh.pb import retriever_pb2_grpc as pb_grpc
from services.gateway.clients.field_names import prefixed, renamed
from services.gateway.domain.documents import Collection, Ingestion, Passage

SEARCH_LIMIT_S = 30.0
# an embedding of many texts, or a document that must reach the disk
BATCH_LIMIT_S = 120.0

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

    async def embed(
        self, texts: Sequence[str], context: RequestContext
    ) -> tuple[list[Sequence[float]], int]:
        """Return one vector of unit length per text, and the tokens that were read."""
        request = pb.EmbedRequest(texts=texts)
        with renamed("input"):
            reply = await rpc.call(self._stub.Embed, request, context, limit_s=BATCH_LIMIT_S)
        return [vector.values for vector in reply.vectors], reply.prompt_tokens

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
