"""Documents and collections: what the retriever keeps, over HTTP."""

from aiohttp import web

from mesh.errors import invalid
from mesh.names import MAX_NAME_CHARACTERS, is_name
from services.gateway.api.fields import text
from services.gateway.domain.ports import DocumentStore
from services.gateway.http.body import read_bytes
from services.gateway.http.middleware import CONTEXT

MAX_MEDIA_TYPE_CHARACTERS = 256
# what clients send without meaning it; the retriever then goes by the name's suffix
_UNMEANT = frozenset({"application/octet-stream", "application/x-www-form-urlencoded"})


class Documents:
    """Answers requests about documents through their store."""

    def __init__(self, store: DocumentStore, max_document_bytes: int) -> None:
        self._store = store
        self._max_document_bytes = max_document_bytes

    async def add(self, request: web.Request) -> web.Response:
        """Queue the raw body as a document of a collection."""
        collection = _name("collection", request.match_info["collection"])
        source = _name("source", request.query.get("source", ""))
        content = await read_bytes(request, self._max_document_bytes)
        if not content:
            raise invalid("body", "The document is empty.")
        media_type = _media_type(request)
        ingestion_id, document_id = await self._store.ingest(
            collection, source, media_type, content, request[CONTEXT]
        )
        queued = {"ingestion_id": ingestion_id, "document_id": document_id, "status": "queued"}
        return web.json_response(queued, status=202)

    async def ingestion(self, request: web.Request) -> web.Response:
        """Tell how far a queued document is."""
        ingestion_id = _name("ingestion_id", request.match_info["ingestion_id"])
        ingestion = await self._store.ingestion(ingestion_id, request[CONTEXT])
        return web.json_response(
            {
                "id": ingestion_id,
                "status": ingestion.state,
                "passages": ingestion.passages,
                "error": ingestion.error or None,
            }
        )

    async def delete(self, request: web.Request) -> web.Response:
        """Delete a document by its name or its id; no search finds it then."""
        collection = _name("collection", request.match_info["collection"])
        document_id = request.match_info.get("document_id", "")
        if document_id:
            _name("document_id", document_id)
        source = "" if document_id else _name("source", request.query.get("source", ""))
        deleted = await self._store.delete_document(
            collection, source, document_id, request[CONTEXT]
        )
        return web.json_response({"id": deleted, "object": "document.deleted", "deleted": True})

    async def delete_collection(self, request: web.Request) -> web.Response:
        """Delete a collection with all that it holds; no search finds it then."""
        collection = _name("collection", request.match_info["collection"])
        await self._store.delete_collection(collection, request[CONTEXT])
        gone = {"id": collection, "object": "collection.deleted", "deleted": True}
        return web.json_response(gone)

    async def collections(self, request: web.Request) -> web.Response:
        """List what can be searched."""
        listed = [
            {"name": c.name, "documents": c.documents, "passages": c.passages}
            for c in await self._store.collections(request[CONTEXT])
        ]
        return web.json_response({"object": "list", "data": listed})


def _media_type(request: web.Request) -> str:
    """Return the whole `Content-Type`: its charset says how to read the body."""
    if request.content_type in _UNMEANT:
        return ""
    declared = request.headers.get("Content-Type", "")
    if len(declared) > MAX_MEDIA_TYPE_CHARACTERS or not is_name(declared):
        raise invalid("Content-Type", "Content-Type is no media type.")
    return declared


def _name(field: str, value: str) -> str:
    text(field, value, high=MAX_NAME_CHARACTERS)
    if not is_name(value):
        raise invalid(
            field,
            f"{field} must not be blank, nor hold control characters or marks of direction.",
        )
    return value
