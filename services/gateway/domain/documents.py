"""Documents and what becomes of them: collections, ingestions, passages."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Passage:
    """A retrieved piece of a document; `start` and `end` count characters of its text."""

    id: str
    source: str
    text: str
    score: float
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Ingestion:
    """A document's way into a collection; `state` is queued, indexed or failed."""

    state: str
    passages: int
    error: str


@dataclass(frozen=True, slots=True)
class Collection:
    """A named set of documents."""

    name: str
    documents: int
    passages: int
