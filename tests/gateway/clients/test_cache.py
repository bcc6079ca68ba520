"""The cache's client against a real server."""

from typing import Any

import pytest

from mesh.context import RequestContext
from services.gateway.clients.cache import GrpcCache
from services.gateway.domain.generation import Answer, GenerationRequest, Model, Sampling, Usage

MODEL = Model("tiny", "r", 512, 256)


@pytest.mark.parametrize("seed", [None, 0, 2**64 - 1])
async def test_cache_key_is_the_whole_request(stack: Any, seed: int | None) -> None:
    """An answer is found again by an equal request and by no other."""
    cache = GrpcCache(stack.remotes["cache"].channel)
    answer = Answer("text", "length", Usage(2, 3, 1))
    drawn = Sampling(
        4, min_tokens=1, temperature=0.0, seed=seed, stop_token_ids=(5,), ignore_eos=True
    )
    asked = GenerationRequest(MODEL, (1, 2), drawn, ("s",), True, "dev")
    await cache.store(asked, answer, RequestContext.start(60))
    assert await cache.lookup(asked, RequestContext.start(60)) == answer
    others = [
        GenerationRequest(MODEL, (1, 3), drawn, ("s",), True, "dev"),
        GenerationRequest(MODEL, (1, 2), drawn, ("t",), True, "dev"),
        GenerationRequest(MODEL, (1, 2), drawn, ("s",), False, "dev"),
        GenerationRequest(MODEL, (1, 2), drawn, ("s",), True, "admin"),
        GenerationRequest(MODEL, (1, 2), Sampling(5), ("s",), True, "dev"),
        GenerationRequest(Model("tiny", "q", 512, 256), (1, 2), drawn, ("s",), True, "dev"),
    ]
    for other in others:
        assert await cache.lookup(other, RequestContext.start(60)) is None
