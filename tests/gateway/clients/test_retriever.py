"""The gateway's values cross gRPC unharmed, and other services' refusals keep their meaning."""

from typing import Any

import pytest

from mesh.context import RequestContext
from mesh.errors import Code, MeshError
from services.gateway.api.openai.chat import Message
from services.gateway.clients.retriever import GrpcCache, GrpcRetriever, GrpcTokenizer, ServicePing
from services.gateway.domain.generation import GenerationRequest, Model, Sampling, Usage
from services.gateway.pipeline.response_cache import Answer

MODEL = Model("tiny", "r", 512, 256)


def context() -> RequestContext:
    return RequestContext.start(60)


async def test_tokenizer(stack: Any) -> None:
    """Texts and conversations become ids, in order."""
    tokenizer = GrpcTokenizer(stack.remotes["tokenizer"].channel)
    assert await tokenizer.encode(["a", "bc"], context()) == [(97,), (98, 99)]
    ids = await tokenizer.encode_chat([Message("user", "ü")], context())
    assert bytes(ids).decode() == "<user>ü<assistant>"


@pytest.mark.parametrize("seed", [None, 0, 2**64 - 1])
async def test_cache_key_is_the_whole_request(stack: Any, seed: int | None) -> None:
    """An answer is found again by an equal request and by no other."""
    cache = GrpcCache(stack.remotes["cache"].channel)
    answer = Answer("text", "length", Usage(2, 3, 1))
    drawn = Sampling(
        4, min_tokens=1, temperature=0.0, seed=seed, stop_token_ids=(5,), ignore_eos=True
    )
    asked = GenerationRequest(MODEL, (1, 2), drawn, ("s",), True, "dev")
    await cache.store(asked, answer, context())
    assert await cache.lookup(asked, context()) == answer
    others = [
        GenerationRequest(MODEL, (1, 3), drawn, ("s",), True, "dev"),
        GenerationRequest(MODEL, (1, 2), drawn, ("t",), True, "dev"),
        GenerationRequest(MODEL, (1, 2), drawn, ("s",), False, "dev"),
        GenerationRequest(MODEL, (1, 2), drawn, ("s",), True, "admin"),
        GenerationRequest(MODEL, (1, 2), Sampling(5), ("s",), True, "dev"),
        GenerationRequest(Model("tiny", "q", 512, 256), (1, 2), drawn, ("s",), True, "dev"),
    ]
    for other in others:
        assert await cache.lookup(other, context()) is None


async def test_retriever_refusals_name_our_fields(stack: Any) -> None:
    """What the retriever calls `collection` is `retrieval.collection` in a chat."""
    retriever = GrpcRetriever(stack.remotes["retriever"].channel)
    with pytest.raises(MeshError) as caught:
        await retriever.search("nowhere", "q", 1, context())
    assert (caught.value.code, caught.value.field) == (Code.NOT_FOUND, "retrieval.collection")


async def test_ping(stack: Any) -> None:
    """A service is there until it is not."""
    ping = ServicePing(stack.remotes["cache"].channel)
    await ping()
    await stack.remotes["cache"].stop()
    with pytest.raises(MeshError):
        await ping()
