"""The values of retrieval: documents, passages, vectors, hits and the state of an ingestion.

Knows neither how they are stored nor how they arrive.
"""

import enum
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# unit vectors of shape (texts, dimensions), or one of (dimensions,)
Vectors = NDArray[np.float32]


class State(enum.IntEnum):
    """Where an ingestion is; the numbers are the wire's and the store's."""

    QUEUED = 1
    INDEXED = 2
    FAILED = 3


@dataclass(frozen=True, slots=True)
class Document:
    """One version of a source, as one ingestion brought it."""

    ingestion_id: str
    document_id: str
    collection: str
    source: str
    media_type: str


class Span(NamedTuple):
    """A passage's place: characters `start` to `end` (exclusive) of the extracted text."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Passage:
    """What a search returns: `text` is `start` to `end` of its document's extracted text."""

    id: str
    document_id: str
    source: str
    text: str
    start: int
    end: int


class Hit(NamedTuple):
    """A passage and its cosine similarity to the query."""

    passage: Passage
    score: float


class Status(NamedTuple):
    """How far an ingestion is; `error` is written for the document's owner."""

    state: State
    passages: int
    error: str


class Summary(NamedTuple):
    """What a collection holds."""

    collection: str
    documents: int
    passages: int


def document_id(collection: str, source: str, content: bytes) -> str:
    """Return 32 hexadecimal digits: the same for the same collection, source and content."""
    digest = hashlib.sha256(f"{collection}\0{source}\0".encode())
    digest.update(content)
    return digest.hexdigest()[:32]


def merged(found: Sequence[Sequence[Hit]], top_k: int) -> list[Hit]:
    """Return the `top_k` best of several searches, each passage once with its best score."""
    best: dict[str, Hit] = {}
    for hit in (hit for hits in found for hit in hits):
        known = best.get(hit.passage.id)
        if known is None or hit.score > known.score:
            best[hit.passage.id] = hit
    return sorted(best.values(), key=lambda hit: -hit.score)[:top_k]


def passages(document: Document, text: str, spans: list[Span]) -> list[Passage]:
    """Return the passages of a document's extracted text, numbered from 0."""
    return [
        Passage(
            id=f"{document.document_id}-{number}",
            document_id=document.document_id,
            source=document.source,
            text=text[span.start : span.end],
            start=span.start,
            end=span.end,
        )
        for number, span in enumerate(spans)
    ]
