"""What the retriever must not lose, in one SQLite file: documents, passages, vectors, ingestions.

For the use of one thread and one process. Knows nothing of search or of the queue.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mesh.errors import CannotStartError
from services.retriever.document import Document, Passage, State, Status, Vectors

NAME = "retriever.sqlite"
DELETED = "The document was deleted before it was indexed."
_SCHEMA = """
CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ingestions (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  document_id TEXT NOT NULL,
  collection TEXT NOT NULL,
  source TEXT NOT NULL,
  media_type TEXT NOT NULL,
  state INTEGER NOT NULL,
  passages INTEGER NOT NULL DEFAULT 0,
  error TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS queued ON ingestions (number) WHERE state = 1;
CREATE TABLE IF NOT EXISTS documents (
  number INTEGER PRIMARY KEY,
  id TEXT NOT NULL,
  collection TEXT NOT NULL,
  source TEXT NOT NULL,
  UNIQUE (collection, source)
);
CREATE TABLE IF NOT EXISTS passages (
  document INTEGER NOT NULL REFERENCES documents (number) ON DELETE CASCADE,
  ordinal INTEGER NOT NULL,
  id TEXT NOT NULL,
  text TEXT NOT NULL,
  start INTEGER NOT NULL,
  "end" INTEGER NOT NULL,
  vector BLOB NOT NULL,
  PRIMARY KEY (document, ordinal)
);
"""


class StoreError(CannotStartError):
    """The store cannot be used as it is configured; the text says why."""


class Superseded(Exception):  # noqa: N818  # an outcome, not a fault
    """A newer version of the same source is in the collection already."""


class Deleted(NamedTuple):
    """A document that is gone; one that was queued alone had not been indexed."""

    document_id: str
    was_indexed: bool


class Store:
    """An open file. A `number` is an ingestion's place in the order of arrival."""

    def __init__(self, folder: Path, encoder: str, dimensions: int) -> None:
        """Open or make the file; raise StoreError where another encoder filled it."""
        self._db = sqlite3.connect(folder / NAME, check_same_thread=False, isolation_level=None)
        self._db.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;"
        )
        self._db.executescript(_SCHEMA)
        expected = f"{encoder}, {dimensions} dimensions"
        self._db.execute("INSERT OR IGNORE INTO about VALUES ('encoder', ?)", (expected,))
        (filled_by,) = self._db.execute("SELECT value FROM about WHERE key = 'encoder'").fetchone()
        if filled_by != expected:
            self._db.close()
            raise StoreError(
                f"the store in {folder} was filled by the encoder {filled_by}, not by {expected}; "
                "set INFERMESH_RETRIEVER_DATA to another folder and ingest again"
            )

    def close(self) -> None:
        """Idempotent."""
        self._db.close()

    def queue(self, document: Document) -> None:
        """Record an ingestion; the order of these calls is the order of versions."""
        self._db.execute(
            "INSERT OR IGNORE INTO ingestions (id, document_id, collection, source, media_type, "
            "state) VALUES (?, ?, ?, ?, ?, ?)",
            (
                document.ingestion_id,
                document.document_id,
                document.collection,
                document.source,
                document.media_type,
                State.QUEUED,
            ),
        )

    def queued(self) -> list[Document]:
        """Return the ingestions that are neither done nor failed, in order."""
        rows = self._db.execute(
            "SELECT id, document_id, collection, source, media_type FROM ingestions "
            "WHERE state = 1 ORDER BY number"
        )
        return [Document(*row) for row in rows]

    def status(self, ingestion_id: str) -> Status | None:
        """Return None where no such ingestion was recorded."""
        row = self._db.execute(
            "SELECT state, passages, error FROM ingestions WHERE id = ?", (ingestion_id,)
        ).fetchone()
        return None if row is None else Status(State(row[0]), row[1], row[2])

    def fail(self, ingestion_id: str, error: str) -> None:
        """End an ingestion that is not yet indexed."""
        self._db.execute(
            "UPDATE ingestions SET state = ?, error = ? WHERE id = ? AND state = ?",
            (State.FAILED, error, ingestion_id, State.QUEUED),
        )

    def delete(self, collection: str, *, source: str = "", document_id: str = "") -> Deleted | None:
        """Delete a document by its source or its id, and what is queued of it.

        Returns None where nothing of it was there.
        """
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            indexed = self._db.execute(
                "SELECT id, source FROM documents WHERE collection = ? AND (source = ? OR id = ?)",
                (collection, source, document_id),
            ).fetchone()
            if indexed is not None:
                # other versions of it may be queued
                source = indexed[1]
                key = (collection, source)
                self._db.execute("DELETE FROM documents WHERE collection = ? AND source = ?", key)
            queued = self._withdraw(
                "collection = ? AND (source = ? OR document_id = ?)",
                collection,
                source,
                document_id,
            )
        if indexed is not None:
            return Deleted(indexed[0], was_indexed=True)
        return Deleted(queued[-1], was_indexed=False) if queued else None

    def delete_collection(self, collection: str) -> int | None:
        """Delete all documents of a collection, and what is queued for it.

        Returns how many documents it held; None where nothing was there.
        """
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            deleted = self._db.execute(
                "DELETE FROM documents WHERE collection = ?", (collection,)
            ).rowcount
            queued = self._withdraw("collection = ?", collection)
        return deleted if deleted or queued else None

    def _withdraw(self, which: str, *values: str) -> list[str]:
        """End queued ingestions: what was asked for before a deletion comes to nothing.

        Returns the ids of their documents, in the order of arrival.
        """
        ended = self._db.execute(
            f"UPDATE ingestions SET state = ?, error = ? WHERE state = ? AND {which} "
            "RETURNING number, document_id",
            (State.FAILED, DELETED, State.QUEUED, *values),
        ).fetchall()
        return [document_id for _, document_id in sorted(ended)]

    def index(self, document: Document, passages: Sequence[Passage], vectors: Vectors) -> str:
        """Replace the source's version by this one and end the ingestion, all or nothing.

        Returns the id of the document that was replaced, or "". Raises Superseded where a later
        ingestion of this source, or its deletion, came first.
        """
        key = (document.collection, document.source)
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            number, state = self._db.execute(
                "SELECT number, state FROM ingestions WHERE id = ?", (document.ingestion_id,)
            ).fetchone()
            if state == State.FAILED:
                # it was deleted while it was read
                raise Superseded
            old = self._db.execute(
                "SELECT number, id FROM documents WHERE collection = ? AND source = ?", key
            ).fetchone()
            if old is not None and old[0] > number:
                raise Superseded
            self._db.execute("DELETE FROM documents WHERE collection = ? AND source = ?", key)
            self._db.execute(
                "INSERT INTO documents VALUES (?, ?, ?, ?)", (number, document.document_id, *key)
            )
            self._db.executemany(
                "INSERT INTO passages VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    (number, i, p.id, p.text, p.start, p.end, vector.tobytes())
                    for i, (p, vector) in enumerate(zip(passages, vectors, strict=True))
                ),
            )
            self._db.execute(
                "UPDATE ingestions SET state = ?, passages = ?, error = '' WHERE number = ?",
                (State.INDEXED, len(passages), number),
            )
        return "" if old is None else str(old[1])

    def contents(self) -> Iterator[tuple[str, list[Passage], Vectors]]:
        """Yield each document's collection, passages and vectors, in the order of their arrival."""
        documents = self._db.execute(
            "SELECT number, id, collection, source FROM documents ORDER BY number"
        ).fetchall()
        for number, document_id, collection, source in documents:
            rows = self._db.execute(
                'SELECT id, text, start, "end", vector FROM passages WHERE document = ? '
                "ORDER BY ordinal",
                (number,),
            ).fetchall()
            passages = [
                Passage(id_, document_id, source, text, start, end)
                for id_, text, start, end, _ in rows
            ]
            yield (
                collection,
                passages,
                np.stack([np.frombuffer(row[4], np.float32) for row in rows]),
            )
