"""The other services as the gateway uses them. Every call may raise MeshError."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from mesh.context import RequestContext
from services.gateway.domain.documents import Collection, Ingestion, Passage
from services.gateway.domain.embeddings import EmbeddingInputs, Embeddings
from services.gateway.domain.generation import (
    Answer,
    ChatPrompt,
    GenerationRequest,
    Model,
    Reservation,
    TextDelta,
    TokenPiece,
)
from services.gateway.domain.request import Message


class Tokenizer(Protocol):
    """Text to token ids and back."""

    async def encode(self, texts: Sequence[str], context: RequestContext) -> list[tuple[int, ...]]:
        """Return token ids per text, with the special tokens that the model starts a text with."""
        ...

    async def encode_chat(
        self,
        messages: Sequence[Message],
        context: RequestContext,
        passages: Sequence[str] | None = None,
    ) -> ChatPrompt:
        """Return the rendered conversation, ready for the assistant's turn.

        Where passages are given, be it none at all, it asks for an answer from them.
        """
        ...

    async def decode(
        self, sequences: Sequence[Sequence[int]], context: RequestContext
    ) -> list[str]:
        """Return the text of each sequence, special tokens by their names."""
        ...

    async def describe_tokens(
        self, token_ids: Sequence[int], context: RequestContext, text: str | None = None
    ) -> list[TokenPiece]:
        """Return what each token adds by itself, or in the text that they make, and where."""
        ...


class Retriever(Protocol):
    """Search in collections."""

    async def search(
        self, collection: str, query: str, top_k: int, context: RequestContext
    ) -> list[Passage]:
        """Return the nearest passages, best first."""
        ...


class Encoder(Protocol):
    """The embedding model."""

    async def embed(self, inputs: EmbeddingInputs, context: RequestContext) -> Embeddings:
        """Return one vector of unit length per input, and how many tokens were read."""
        ...


class DocumentStore(Protocol):
    """Collections of documents."""

    async def ingest(
        self,
        collection: str,
        source: str,
        media_type: str,
        content: bytes,
        context: RequestContext,
    ) -> tuple[str, str]:
        """Queue a document; return the ids of its ingestion and of itself."""
        ...

    async def ingestion(self, ingestion_id: str, context: RequestContext) -> Ingestion:
        """Return how far an ingestion is; raises NOT_FOUND."""
        ...

    async def delete_document(
        self, collection: str, source: str, document_id: str, context: RequestContext
    ) -> str:
        """Delete a document by its source or its id; return its id. Raises NOT_FOUND."""
        ...

    async def delete_collection(self, collection: str, context: RequestContext) -> None:
        """Delete all documents of a collection; raises NOT_FOUND."""
        ...

    async def collections(self, context: RequestContext) -> list[Collection]:
        """Return all collections that hold something."""
        ...


class AnswerCache(Protocol):
    """Whole answers to deterministic requests."""

    async def lookup(self, request: GenerationRequest, context: RequestContext) -> Answer | None:
        """Return the answer to an equal request of the same tenant."""
        ...

    async def store(
        self, request: GenerationRequest, answer: Answer, context: RequestContext
    ) -> None:
        """Keep an answer for later requests."""
        ...


class TextGenerator(Protocol):
    """Generates text for one sequence at a time, many at once."""

    def models(self) -> list[Model]:
        """Return what the live replicas serve."""
        ...

    def stream(
        self,
        request: GenerationRequest,
        context: RequestContext,
        reservation: Reservation | None = None,
    ) -> AsyncIterator[TextDelta]:
        """Yield the sequence's text as it comes; closing the iterator cancels the work.

        It takes a place of `reservation`, or one of its own where none is left. Raises MeshError:
        RESOURCE_EXHAUSTED when it finds the queue full, or was sent back to a full queue,
        UNAVAILABLE when no replica serves the model or one was lost, DEADLINE_EXCEEDED, INTERNAL.
        """
        ...


class AdmissionQueue(Protocol):
    """The generator's queue, asked before any work is done. Synchronous: it only counts."""

    def models(self) -> list[Model]:
        """Return what the live replicas serve."""
        ...

    def reserve(
        self, model: Model, num_tokens: Sequence[int], *, tenant: str, priority: int
    ) -> Reservation:
        """Hold places for sequences of so many KV tokens each, for `release` to give back.

        Raises RESOURCE_EXHAUSTED where they would wait beyond the queue's bounds, UNAVAILABLE where
        no replica serves the model.
        """
        ...

    def correct(self, reservation: Reservation, num_tokens: Sequence[int]) -> None:
        """Count the reserved sequences anew, before the first is submitted.

        Raises RESOURCE_EXHAUSTED where more tokens than were reserved pass the queue's bound.
        """
        ...

    def release(self, reservation: Reservation) -> None:
        """Give back what no sequence took; exactly once."""
        ...
