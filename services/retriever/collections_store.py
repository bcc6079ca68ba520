"""All collections: the durable store and the indexes over it, kept in step by one thread.

Knows nothing of the queue or of how text becomes vectors.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from mesh.errors import Code, MeshError
from services.retriever.document import Document, Hit, Passage, Status, Summary, Vectors
from services.retriever.index import Index
from services.retriever.store import Store

T = TypeVar("T")
# a product with fewer numbers than this takes under a millisecond: no thread
_SMALL = 500_000


class CollectionsStore:
    """Opened by `open`, ended by `close`. Calls from any task of one loop."""

    def __init__(self, store: Store, dimensions: int, thread: ThreadPoolExecutor) -> None:
        self._store = store
        self._dimensions = dimensions
        self._thread = thread
        self._indexes: dict[str, Index] = {}
        self._documents: dict[str, int] = {}

    @classmethod
    async def open(cls, folder: Path, encoder: str, dimensions: int) -> "CollectionsStore":
        """Read all passages; raise StoreError where another encoder filled the folder."""
        thread = ThreadPoolExecutor(1, thread_name_prefix="store")

        def read() -> CollectionsStore:
            collections = cls(Store(folder, encoder, dimensions), dimensions, thread)
            for collection, passages, vectors in collections._store.contents():
                collections._publish(collection, "", passages, vectors)
            return collections

        try:
            return await asyncio.get_running_loop().run_in_executor(thread, read)
        except BaseException:
            thread.shutdown(wait=False)
            raise

    async def close(self) -> None:
        """End what is being written; idempotent."""
        await asyncio.to_thread(self._thread.shutdown, wait=True)
        self._store.close()

    async def ping(self) -> None:
        """Raise when the store cannot be read."""
        await self._run(lambda: self._store.status(""))

    async def queue(self, document: Document) -> None:
        """Record an ingestion as queued, durably."""
        await self._run(lambda: self._store.queue(document))

    async def queued(self) -> list[Document]:
        """Return the ingestions that have not ended, in the order of arrival."""
        return await self._run(self._store.queued)

    async def status(self, ingestion_id: str) -> Status | None:
        """Return None where it is unknown; INDEXED means that a search finds its passages."""
        return await self._run(lambda: self._store.status(ingestion_id))

    async def fail(self, ingestion_id: str, error: str) -> None:
        """End an ingestion with words for its document's owner."""
        await self._run(lambda: self._store.fail(ingestion_id, error))

    async def index(
        self, document: Document, passages: Sequence[Passage], vectors: Vectors
    ) -> None:
        """Make a document durable and findable in place of its source's earlier version.

        Raises Superseded where a later version is there already.
        """

        def write() -> None:
            replaced = self._store.index(document, passages, vectors)
            self._publish(document.collection, replaced, passages, vectors)

        await self._run(write)

    async def delete(
        self, collection: str, *, source: str = "", document_id: str = ""
    ) -> str | None:
        """Delete a document by its source or id; return its id, None where it is not there.

        No search finds it once this returns, and nothing that was queued before brings it back.
        """

        def delete() -> str | None:
            deleted = self._store.delete(collection, source=source, document_id=document_id)
            if deleted is None:
                return None
            if deleted.was_indexed:
                self._withdraw(collection, deleted.document_id)
            return deleted.document_id

        return await self._run(delete)

    async def delete_collection(self, collection: str) -> int | None:
        """Delete a collection; see `Store.delete_collection`. No search finds it then."""

        def delete() -> int | None:
            deleted = self._store.delete_collection(collection)
            self._indexes.pop(collection, None)
            self._documents.pop(collection, None)
            return deleted

        return await self._run(delete)

    async def search(self, collection: str, query: Vectors, top_k: int) -> list[Hit]:
        """Return hits, best first; `query` is (dimensions,). Raise NOT_FOUND for `collection`."""
        index = self.require(collection)
        if len(index) * self._dimensions < _SMALL:
            return index.search(query, top_k)
        return await asyncio.to_thread(index.search, query, top_k)

    def require(self, collection: str) -> Index:
        """Return a collection's index; raise NOT_FOUND where nothing has been indexed."""
        index = self._indexes.get(collection)
        if index is None:
            raise MeshError(
                Code.NOT_FOUND, f"collection {collection!r} does not exist.", field="collection"
            )
        return index

    def summaries(self) -> list[Summary]:
        """Return what each collection holds, by name."""
        return [
            Summary(name, self._documents[name], len(index))
            for name, index in sorted(self._indexes.items())
            if name in self._documents
        ]

    def _withdraw(self, collection: str, document_id: str) -> None:
        self._documents[collection] -= 1
        if self._documents[collection]:
            self._indexes[collection].remove(document_id)
        else:
            # nothing is left of it: not even its name
            del self._indexes[collection], self._documents[collection]

    def _publish(
        self, collection: str, replaced: str, passages: Sequence[Passage], vectors: Vectors
    ) -> None:
        index = self._indexes.get(collection)
        if index is None:
            index = Index(self._dimensions)
        index.replace(replaced, passages, vectors)
        self._documents[collection] = self._documents.get(collection, 0) + (not replaced)
        self._indexes[collection] = index

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
