"""A running gateway in front of real gRPC servers with tiny servicers and a scripted generator."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import openai
import pytest

from mesh import rpc
from mesh.context import RequestContext
from mesh.errors import Code, MeshError, invalid
from mesh.lifecycle import Lifecycle, State
from mesh.pb import (
    cache_pb2,
    cache_pb2_grpc,
    retriever_pb2,
    retriever_pb2_grpc,
    tokenizer_pb2,
    tokenizer_pb2_grpc,
)
from services.gateway.app import Services, build_app, serve
from services.gateway.clients.cache import GrpcCache
from services.gateway.clients.health import ServicePing
from services.gateway.clients.retriever import GrpcRetriever
from services.gateway.clients.tokenizer import GrpcTokenizer
from services.gateway.config import GatewaySettings
from services.gateway.domain.generation import (
    GenerationRequest,
    Model,
    Reservation,
    TextDelta,
    TokenLogprobs,
    TokenPiece,
    Usage,
)
from services.gateway.generation.dispatcher import Dispatcher
from services.gateway.generation.routing import Report
from services.gateway.http.probes import OptionalService

KEY = "a-key-for-development"
MODEL = Model("tiny", "0123456789abcdef", context_length=512, vocab_size=256, eos_token_ids=(0,))


class ScriptedGenerator:
    """Says `words`, then ends; an exception among them is raised, an event is waited for.

    Where log-probabilities are asked for, each byte is a token of value `scores[seed]`.
    """

    def __init__(self) -> None:
        self.words: list[str | Exception | asyncio.Event] = ["Hel", "lo", " you"]
        self.reason = "stop"
        self.scores: dict[int | None, float] = {}
        self.served = [MODEL]
        self.requests: list[GenerationRequest] = []
        self.running = 0
        self.started = asyncio.Event()
        self.closed = asyncio.Event()

    def models(self) -> list[Model]:
        return self.served

    async def stream(
        self,
        request: GenerationRequest,
        context: RequestContext,
        reservation: Reservation | None = None,
    ) -> AsyncIterator[TextDelta]:
        self.requests.append(request)
        self.running += 1
        self.started.set()
        try:
            spoken = num_chars = 0
            for word in self.words:
                if isinstance(word, Exception):
                    raise word
                if isinstance(word, asyncio.Event):
                    await word.wait()
                    continue
                spoken += 1
                asked = request.sampling.logprobs
                logprobs = self._told(request, word.encode(), asked, num_chars)
                num_chars += len(word)
                prompt = request.prompt_token_ids[1:] if spoken == 1 else ()
                prompt_logprobs = self._told(request, prompt, request.sampling.prompt_logprobs)
                yield TextDelta(word, 1, logprobs=logprobs, prompt_logprobs=prompt_logprobs)
            usage = Usage(len(request.prompt_token_ids), spoken, 3)
            yield TextDelta("", 0, self.reason, usage)
            for index in range(1, request.sampling.n):
                text = f"beam {index}"
                yield TextDelta(text, 2, "length", Usage(0, 0), sequence=index)
        finally:
            self.running -= 1
            if not self.running:
                self.closed.set()

    def _told(
        self,
        request: GenerationRequest,
        token_ids: Iterable[int],
        count: int | None,
        offset: int = 0,
    ) -> tuple[TokenLogprobs, ...]:
        if count is None:
            return ()
        value = self.scores.get(request.sampling.seed, -0.5)
        return tuple(
            TokenLogprobs(
                i,
                value,
                1,
                tuple((i + n, value - n) for n in range(count)),
                TokenPiece(bytes([i]), offset=offset + place),
            )
            for place, i in enumerate(token_ids)
        )


class TokenizerServicer(tokenizer_pb2_grpc.TokenizerServicer):
    """One token per byte; a chat is `<role>content` per turn, then `<passage>text` for each."""

    def __init__(self) -> None:
        self.chats: list[str] = []
        self.answer_start = ""
        self.described = 0
        self.calls = 0

    async def Encode(self, request: Any, context: Any) -> Any:
        self.calls += 1
        ids = [tokenizer_pb2.TokenIds(ids=text.encode()) for text in request.texts]
        return tokenizer_pb2.EncodeResponse(sequences=ids)

    async def Decode(self, request: Any, context: Any) -> Any:
        texts = [bytes(sequence.ids).decode(errors="replace") for sequence in request.sequences]
        self.calls += 1
        return tokenizer_pb2.DecodeResponse(texts=texts)

    async def DescribeTokens(self, request: Any, context: Any) -> Any:
        self.described += len(request.ids)
        self.calls += 1
        within = request.HasField("text")
        pieces = [
            tokenizer_pb2.TokenPiece(data=bytes([i]), offset=place if within else 0)
            for place, i in enumerate(request.ids)
        ]
        return tokenizer_pb2.DescribeTokensResponse(pieces=pieces)

    async def EncodeChat(self, request: Any, context: Any) -> Any:
        self.calls += 1
        if request.messages[-1].content == "fail":
            raise RuntimeError("secret: /etc/passwd")
        text = "".join(f"<{m.role}>{m.content}" for m in request.messages)
        start = ""
        if request.HasField("passages"):
            text += "".join(f"<passage>{passage}" for passage in request.passages.texts)
            start = self.answer_start
        text += "<assistant>" + start
        self.chats.append(text)
        ids = tokenizer_pb2.TokenIds(ids=text.encode())
        return tokenizer_pb2.EncodeChatResponse(prompt=ids, text=text, answer_start=start)


class CacheServicer(cache_pb2_grpc.CacheServicer):
    """A dictionary."""

    def __init__(self) -> None:
        self.answers: dict[bytes, Any] = {}
        self.lookups = 0
        self.hold: asyncio.Event | None = None
        self.broken = False

    async def Lookup(self, request: Any, context: Any) -> Any:
        self.lookups += 1
        if self.hold is not None:
            await self.hold.wait()
        if self.broken:
            raise RuntimeError("broken")
        key = request.key.SerializeToString(deterministic=True)
        return cache_pb2.LookupResponse(answer=self.answers.get(key))

    async def Store(self, request: Any, context: Any) -> Any:
        self.answers[request.key.SerializeToString(deterministic=True)] = request.answer
        return cache_pb2.StoreResponse(stored=True)


class RetrieverServicer(retriever_pb2_grpc.RetrieverServicer):
    """Canned passages and vectors."""

    def __init__(self) -> None:
        self.embedded: list[Any] = []
        self.deleted: list[Any] = []
        self.passages = [
            retriever_pb2.Passage(
                id=f"p{i}",
                document_id="d",
                source="mill.md",
                text=f"The mill number {i} is old.",
                score=0.9 - i / 10,
                start=i * 10,
                end=i * 10 + 9,
            )
            for i in range(3)
        ]
        self.searches: list[Any] = []
        self.ingested: list[Any] = []

    async def Search(self, request: Any, context: Any) -> Any:
        self.searches.append(request)
        if request.collection == "nowhere":
            raise MeshError(Code.NOT_FOUND, "No collection `nowhere`.", field="collection")
        return retriever_pb2.SearchResponse(passages=self.passages[: request.top_k])

    async def Embed(self, request: Any, context: Any) -> Any:
        self.embedded.append(request)
        for i, text in enumerate(request.texts):
            if text == "long":
                message = f"texts[{i}] has 300 tokens; the encoder reads at most 256."
                raise invalid(f"texts[{i}]", message)
        inputs = list(request.texts) or [tokens.ids for tokens in request.token_ids]
        vectors = [retriever_pb2.Vector(values=[len(each), 0.5]) for each in inputs]
        return retriever_pb2.EmbedResponse(
            model="all-MiniLM-L6-v2", vectors=vectors, prompt_tokens=7, truncated_tokens=3
        )

    async def DeleteDocument(self, request: Any, context: Any) -> Any:
        self.deleted.append(request)
        if request.source == "none":
            raise MeshError(Code.NOT_FOUND, "source is of no document here.", field="source")
        return retriever_pb2.DeleteDocumentResponse(document_id=request.document_id or "d1")

    async def DeleteCollection(self, request: Any, context: Any) -> Any:
        self.deleted.append(request)
        return retriever_pb2.DeleteCollectionResponse(documents=1)

    async def Ingest(self, request: Any, context: Any) -> Any:
        if request.collection == "bad name":
            raise invalid("collection", "collection must be a plain name.")
        self.ingested.append(request)
        return retriever_pb2.IngestResponse(ingestion_id="i1", document_id="d1")

    async def IngestionStatus(self, request: Any, context: Any) -> Any:
        if request.ingestion_id != "i1":
            raise MeshError(Code.NOT_FOUND, "No such ingestion.", field="ingestion_id")
        return retriever_pb2.IngestionStatusResponse(
            state=retriever_pb2.INGESTION_STATE_INDEXED, passages=3
        )

    async def ListCollections(self, request: Any, context: Any) -> Any:
        found = retriever_pb2.Collection(name="docs", documents=1, passages=3)
        return retriever_pb2.ListCollectionsResponse(collections=[found])


@dataclass
class Remote:
    """One gRPC service in this process that a test can stop."""

    life: Lifecycle
    channel: Any

    async def stop(self) -> None:
        self.life.advance(State.STOPPED)
        await self.life.stack.aclose()


@dataclass
class Stack:
    """A gateway and all that it talks to."""

    url: str
    port: int
    lifecycle: Lifecycle
    http: aiohttp.ClientSession
    client: openai.AsyncOpenAI
    generator: ScriptedGenerator
    queue: Dispatcher
    tokenizer: TokenizerServicer
    cache: CacheServicer
    retriever: RetrieverServicer
    remotes: dict[str, Remote]
    body: dict[str, Any] = field(
        default_factory=lambda: {
            "model": "tiny",
            "messages": [{"role": "user", "content": "Hi"}],
            "temperature": 0,
        }
    )

    async def post(
        self, path: str, body: Any = None, headers: dict[str, str] | None = None, **kwargs: Any
    ) -> tuple[int, Any, Any]:
        """Status, headers and JSON of a POST."""
        if body is not None:
            kwargs["json"] = body
        async with self.http.post(self.url + path, headers=headers, **kwargs) as response:
            return response.status, response.headers, await response.json()

    async def chat(self, headers: dict[str, str] | None = None, **extra: Any) -> Any:
        """A chat request with some fields changed."""
        return await self.post("/v1/chat/completions", {**self.body, **extra}, headers)


async def remote(add: Callable[[Any], None]) -> Remote:
    life = Lifecycle()
    port = await rpc.serve(life, "127.0.0.1:0", [add], [])
    life.advance(State.READY)
    return Remote(life, rpc.channel(f"127.0.0.1:{port}"))


@pytest.fixture
def settings() -> GatewaySettings:
    return GatewaySettings(
        dev_key=KEY,
        admin_key="another-key",
        max_body_bytes=256 * 1024,
        # a busy machine must not turn hits into bypasses
        cache_timeout_s=10,
    )


@pytest.fixture
async def stack(settings: GatewaySettings) -> AsyncIterator[Stack]:
    tokenizer, cache, retriever = TokenizerServicer(), CacheServicer(), RetrieverServicer()
    remotes = {
        "tokenizer": await remote(
            lambda s: tokenizer_pb2_grpc.add_TokenizerServicer_to_server(tokenizer, s)
        ),
        "cache": await remote(lambda s: cache_pb2_grpc.add_CacheServicer_to_server(cache, s)),
        "retriever": await remote(
            lambda s: retriever_pb2_grpc.add_RetrieverServicer_to_server(retriever, s)
        ),
    }
    generator = ScriptedGenerator()
    queue = Dispatcher(settings.max_waiting, settings.max_waiting_tokens)
    queue.report(Report("r1", MODEL, 0, 0, 0, False, frozenset()), 0.0)
    lifecycle = Lifecycle()
    services = Services(
        tokenizer=GrpcTokenizer(remotes["tokenizer"].channel),
        retriever=GrpcRetriever(remotes["retriever"].channel),
        cache=GrpcCache(remotes["cache"].channel),
        generator=generator,
        queue=queue,
        optional={
            n: OptionalService(ServicePing(remotes[n].channel)) for n in ("retriever", "cache")
        },
    )
    lifecycle.checks.add("tokenizer", ServicePing(remotes["tokenizer"].channel))
    app = build_app(settings, lifecycle, services)
    port = await serve(lifecycle, app, "127.0.0.1", 0)
    lifecycle.advance(State.READY)
    url = f"http://127.0.0.1:{port}"
    http = aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"})
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
    async with http, client:
        yield Stack(
            url=url,
            port=port,
            lifecycle=lifecycle,
            http=http,
            client=client,
            generator=generator,
            queue=queue,
            tokenizer=tokenizer,
            cache=cache,
            retriever=retriever,
            remotes=remotes,
        )
    await lifecycle.close()
    queue.check()
    assert queue.num_permits() == 0, "a permit outlived its request"
    for service in remotes.values():
        await service.channel.close()
        if service.life.state is not State.STOPPED:
            await service.stop()
