"""Documents, collections and embeddings: what the retriever does, over HTTP."""

import base64
import struct
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from mesh.errors import Code, MeshError, invalid
from services.gateway.api import fields
from services.gateway.api.openai import chat
from services.gateway.clients.retriever import GrpcRetriever
from services.gateway.domain import errors
from services.gateway.http.body import read_bytes, read_json
from services.gateway.http.middleware import CONTEXT

MAX_NAME = 255
# what clients send without meaning it; the retriever then goes by the name's suffix
_UNMEANT = frozenset({"application/octet-stream", "application/x-www-form-urlencoded"})


class Documents:
    """Answers requests about documents and embeddings through the retriever."""

    def __init__(
        self,
        retriever: GrpcRetriever,
        *,
        encoder_id: str,
        max_document_bytes: int,
        max_body_bytes: int,
    ) -> None:
        self._retriever = retriever
        self._encoder_id = encoder_id
        self._max_document_bytes = max_document_bytes
        self._max_body_bytes = max_body_bytes

    async def add(self, request: web.Request) -> web.Response:
        """Queues the raw body as a document of a collection."""
        collection = _name("collection", request.match_info["collection"])
        source = _name("source", request.query.get("source", ""))
        content = await read_bytes(request, self._max_document_bytes)
        if not content:
            raise invalid("body", "The document is empty.")
        media_type = "" if request.content_type in _UNMEANT else request.content_type
        ingestion_id, document_id = await self._retriever.ingest(
            collection, source, media_type, content, request[CONTEXT]
        )
        queued = {"ingestion_id": ingestion_id, "document_id": document_id, "status": "queued"}
        return web.json_response(queued, status=202)

    async def ingestion(self, request: web.Request) -> web.Response:
        """How far a queued document is."""
        ingestion_id = _name("ingestion_id", request.match_info["ingestion_id"])
        found = await self._retriever.ingestion(ingestion_id, request[CONTEXT])
        return web.json_response(
            {
                "id": ingestion_id,
                "status": found.state,
                "passages": found.passages,
                "error": found.error or None,
            }
        )

    async def collections(self, request: web.Request) -> web.Response:
        """What can be searched."""
        listed = [
            {"name": c.name, "documents": c.documents, "passages": c.passages}
            for c in await self._retriever.collections(request[CONTEXT])
        ]
        return web.json_response({"object": "list", "data": listed})

    async def embeddings(self, request: web.Request) -> web.Response:
        """One vector per text."""
        asked = chat.embedding(await read_json(request, self._max_body_bytes))
        if asked.model != self._encoder_id:
            raise errors.model_not_found(asked.model)
        vectors, tokens = await self._retriever.embed(asked.texts, request[CONTEXT])
        if len(vectors) != len(asked.texts):
            raise MeshError(Code.INTERNAL, "The encoder answered for another number of texts.")
        data = [
            {"object": "embedding", "index": i, "embedding": _vector(values, asked.base64)}
            for i, values in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return web.json_response(
            {"object": "list", "data": data, "model": self._encoder_id, "usage": usage}
        )


def _vector(values: Sequence[float], packed: bool) -> Any:
    if packed:
        return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
    return list(values)


def _name(field: str, value: str) -> str:
    if not value.strip() or not value.isprintable():
        raise invalid(field, f"{field} must be a name of printable characters.")
    return fields.text(field, value, high=MAX_NAME)
