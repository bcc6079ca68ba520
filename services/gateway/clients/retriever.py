"""The mesh's services as the gateway calls them: domain values in, protos over gRPC, errors out."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh import rpc
from mesh.context import RequestContext
from mesh.errors import MeshError, unavailable
from mesh.pb import cache_pb2, cache_pb2_grpc, common_pb2, retriever_pb2_grpc, tokenizer_pb2_grpc
from mesh.pb import retriever_pb2 as retriever_pb
from mesh.pb import tokenizer_pb2 as tokenizer_pb
from services.gateway.api.openai.chat import Message
from services.gateway.domain.errors import prefix_field
from services.gateway.domain.generation import GenerationRequest, Sampling, Usage
from services.gateway.pipeline.context_window import Passage
from services.gateway.pipeline.response_cache import Answer

PING_LIMIT_S = 1.0
TOKENIZE_LIMIT_S = 30.0
# sequences that the tokenizer takes in one call
MAX_DECODED = 2048
SEARCH_LIMIT_S = 30.0
# an embedding of many texts, or a document that must reach the disk
BATCH_LIMIT_S = 120.0

_FINISH = {
    "stop": common_pb2.FINISH_REASON_STOP,
    "length": common_pb2.FINISH_REASON_LENGTH,
}
_FINISH_NAMES = {number: name for name, number in _FINISH.items()}
_STATES = {
    retriever_pb.INGESTION_STATE_QUEUED: "queued",
    retriever_pb.INGESTION_STATE_INDEXED: "indexed",
    retriever_pb.INGESTION_STATE_FAILED: "failed",
}


class GrpcTokenizer:
    """Text to ids."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = tokenizer_pb2_grpc.TokenizerStub(channel)

    async def encode(self, texts: Sequence[str], context: RequestContext) -> list[tuple[int, ...]]:
        """Token ids per text, with the special tokens that the model starts a text with."""
        request = tokenizer_pb.EncodeRequest(texts=texts, add_special_tokens=True)
        with _named("prompt"):
            reply = await rpc.call(self._stub.Encode, request, context, limit_s=TOKENIZE_LIMIT_S)
        return [tuple(sequence.ids) for sequence in reply.sequences]

    async def encode_chat(
        self, messages: Sequence[Message], context: RequestContext
    ) -> tuple[int, ...]:
        """Token ids of the conversation up to where the assistant begins."""
        turns = [
            tokenizer_pb.ChatMessage(role=m.role, content=m.content, name=m.name) for m in messages
        ]
        request = tokenizer_pb.EncodeChatRequest(messages=turns, add_generation_prompt=True)
        reply = await rpc.call(self._stub.EncodeChat, request, context, limit_s=TOKENIZE_LIMIT_S)
        return tuple(reply.prompt.ids)

    async def decode(
        self, sequences: Sequence[Sequence[int]], context: RequestContext
    ) -> list[str]:
        """The text of each sequence, special tokens by their names."""
        texts: list[str] = []
        for first in range(0, len(sequences), MAX_DECODED):
            part = sequences[first : first + MAX_DECODED]
            request = tokenizer_pb.DecodeRequest(
                sequences=[tokenizer_pb.TokenIds(ids=ids) for ids in part]
            )
            reply = await rpc.call(self._stub.Decode, request, context, limit_s=TOKENIZE_LIMIT_S)
            texts += reply.texts
        return texts


class GrpcCache:
    """Whole answers to deterministic requests."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = cache_pb2_grpc.CacheStub(channel)

    async def lookup(self, request: GenerationRequest, context: RequestContext) -> Answer | None:
        """The answer to an equal request of the same tenant."""
        lookup = cache_pb2.LookupRequest(key=_key(request))
        reply = await rpc.call(self._stub.Lookup, lookup, context)
        found = reply.answer
        if not reply.HasField("answer") or found.finish_reason not in _FINISH_NAMES:
            return None
        usage = Usage(
            found.usage.prompt_tokens,
            found.usage.completion_tokens,
            found.usage.cached_prompt_tokens,
        )
        return Answer(found.text, _FINISH_NAMES[found.finish_reason], usage)

    async def store(
        self, request: GenerationRequest, answer: Answer, context: RequestContext
    ) -> None:
        """Keeps an answer for the service's default time."""
        usage = answer.usage
        kept = cache_pb2.CachedAnswer(
            text=answer.text,
            finish_reason=_FINISH[answer.finish_reason],
            usage=common_pb2.Usage(
                prompt_tokens=usage.prompt_tokens,
                completion_tokens=usage.completion_tokens,
                cached_prompt_tokens=usage.cached_prompt_tokens,
            ),
        )
        store = cache_pb2.StoreRequest(key=_key(request), answer=kept)
        await rpc.call(self._stub.Store, store, context)


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


class GrpcRetriever:
    """Documents, passages and embeddings."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = retriever_pb2_grpc.RetrieverStub(channel)

    async def search(
        self, collection: str, query: str, top_k: int, context: RequestContext
    ) -> list[Passage]:
        """The nearest passages, best first."""
        request = retriever_pb.SearchRequest(collection=collection, query=query, top_k=top_k)
        with _prefixed("retrieval"):
            reply = await rpc.call(self._stub.Search, request, context, limit_s=SEARCH_LIMIT_S)
        return [Passage(p.id, p.source, p.text, p.score, p.start, p.end) for p in reply.passages]

    async def embed(
        self, texts: Sequence[str], context: RequestContext
    ) -> tuple[list[Sequence[float]], int]:
        """One vector of unit length per text, and the tokens that were read."""
        request = retriever_pb.EmbedRequest(texts=texts)
        with _named("input"):
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
        """Queues a document; returns the ids of its ingestion and of itself."""
        request = retriever_pb.IngestRequest(
            collection=collection, source=source, media_type=media_type, content=content
        )
        reply = await rpc.call(self._stub.Ingest, request, context, limit_s=BATCH_LIMIT_S)
        return reply.ingestion_id, reply.document_id

    async def ingestion(self, ingestion_id: str, context: RequestContext) -> Ingestion:
        """How far an ingestion is; raises NOT_FOUND."""
        request = retriever_pb.IngestionStatusRequest(ingestion_id=ingestion_id)
        reply = await rpc.call(self._stub.IngestionStatus, request, context, limit_s=SEARCH_LIMIT_S)
        return Ingestion(_STATES.get(reply.state, "queued"), reply.passages, reply.error)

    async def collections(self, context: RequestContext) -> list[Collection]:
        """All collections that hold something."""
        request = retriever_pb.ListCollectionsRequest()
        reply = await rpc.call(self._stub.ListCollections, request, context, limit_s=SEARCH_LIMIT_S)
        return [Collection(c.name, c.documents, c.passages) for c in reply.collections]


class ServicePing:
    """A readiness check: some replica behind the channel says that it serves."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = health_pb2_grpc.HealthStub(channel)

    async def __call__(self) -> None:
        """Raises MeshError within PING_LIMIT_S when none does."""
        context = RequestContext.start(PING_LIMIT_S)
        reply = await rpc.call(self._stub.Check, health_pb2.HealthCheckRequest(), context)
        if reply.status != health_pb2.HealthCheckResponse.SERVING:
            raise unavailable("The service is not ready.")


def sampling_message(sampling: Sampling) -> common_pb2.SamplingParams:
    """The contract's form of how tokens are drawn."""
    return common_pb2.SamplingParams(
        max_tokens=sampling.max_tokens,
        min_tokens=sampling.min_tokens,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        typical_p=sampling.typical_p,
        repetition_penalty=sampling.repetition_penalty,
        frequency_penalty=sampling.frequency_penalty,
        presence_penalty=sampling.presence_penalty,
        logit_bias=dict(sampling.logit_bias),
        allowed_token_ids=sampling.allowed_token_ids,
        bad_token_ids=sampling.bad_token_ids,
        seed=sampling.seed,
        stop_token_ids=sampling.stop_token_ids,
        ignore_eos=sampling.ignore_eos,
        logprobs=sampling.logprobs,
        prompt_logprobs=sampling.prompt_logprobs,
        n=sampling.n,
        beam_width=sampling.beam_width,
        length_penalty=sampling.length_penalty,
    )


def _key(request: GenerationRequest) -> cache_pb2.CacheKey:
    return cache_pb2.CacheKey(
        tenant=request.tenant,
        model=request.model.id,
        model_revision=request.model.revision,
        prompt_token_ids=request.prompt_token_ids,
        sampling=sampling_message(request.sampling),
        stop=request.stop,
        include_stop=request.include_stop,
    )


@contextmanager
def _named(field: str) -> Iterator[None]:
    """What a service calls by its contract's name has another in the request."""
    try:
        yield
    except MeshError as error:
        if error.field is not None:
            error.field = field
        raise


@contextmanager
def _prefixed(prefix: str) -> Iterator[None]:
    try:
        yield
    except MeshError as error:
        prefix_field(error, prefix)
        raise
