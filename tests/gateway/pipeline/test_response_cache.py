"""The cache behind its limits: waits for a running store, rests after a failure."""

import asyncio
from typing import Any

import pytest

from mesh.context import RequestContext
from mesh.errors import unavailable
from services.gateway.domain.generation import Answer, GenerationRequest, Model, Sampling, Usage
from services.gateway.domain.request import InferenceRequest, Options, Prompts
from services.gateway.pipeline import response_cache as module
from services.gateway.pipeline.request_memo import MemoKey
from services.gateway.pipeline.response_cache import Outcome, Policy, ResponseCache

MODEL = Model("tiny", "r", 512, 256)
ANSWER = Answer("text", "stop", Usage(1, 2))


def request(token: int = 1) -> GenerationRequest:
    return GenerationRequest(MODEL, (token,), Sampling(4, temperature=0))


class Memory:
    """A cache whose stores wait for a gate."""

    def __init__(self) -> None:
        self.kept: dict[GenerationRequest, Answer] = {}
        self.gate = asyncio.Event()
        self.fails = False
        self.lookups = 0

    async def lookup(self, asked: GenerationRequest, context: Any) -> Answer | None:
        self.lookups += 1
        if self.fails:
            raise unavailable("gone")
        return self.kept.get(asked)

    async def store(self, asked: GenerationRequest, answer: Answer, context: Any) -> None:
        await self.gate.wait()
        self.kept[asked] = answer


async def test_lookup_waits_for_the_running_store() -> None:
    """Asking again while the first answer is being stored finds it."""
    memory = Memory()
    cache = ResponseCache(memory, timeout_s=30)
    cache.keep(request(), ANSWER, "id")
    asking = asyncio.create_task(cache.lookup(request(), RequestContext.start(60)))
    other = await cache.lookup(request(2), RequestContext.start(60))
    assert other == (Outcome.MISS, None) and not asking.done()
    memory.gate.set()
    assert await asking == (Outcome.HIT, ANSWER)


async def test_a_store_that_hangs_delays_nobody_for_long() -> None:
    """The wait for a store is within the lookup's limit, and the store goes on."""
    memory = Memory()
    cache = ResponseCache(memory, timeout_s=0.01)
    cache.keep(request(), ANSWER, "id")
    assert await cache.lookup(request(), RequestContext.start(60)) == (Outcome.BYPASS, None)
    memory.gate.set()
    await cache.drain()
    assert memory.kept == {request(): ANSWER}


async def test_the_newer_answer_stays() -> None:
    """A refresh during the first answer's store is stored after it."""
    memory = Memory()
    cache = ResponseCache(memory, timeout_s=30)
    newer = Answer("newer", "stop", Usage(1, 2))
    cache.keep(request(), ANSWER, "id")
    cache.keep(request(), newer, "id")
    memory.gate.set()
    assert await cache.lookup(request(), RequestContext.start(60)) == (Outcome.HIT, newer)
    assert not cache._running and not cache._latest


async def test_stores_are_bounded() -> None:
    """Beyond the bound, cache are not kept rather than piled up."""
    memory = Memory()
    cache = ResponseCache(memory, timeout_s=1)
    for token in range(module.MAX_STORES + 10):
        cache.keep(request(token), ANSWER, "id")
    assert len(cache._running) == module.MAX_STORES
    await cache.close()
    await cache.close()
    assert not memory.kept and not cache._latest


async def test_a_failing_cache_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failure, the next requests do not ask."""
    monkeypatch.setattr(module, "REST_S", 60.0)
    memory = Memory()
    memory.fails = True
    cache = ResponseCache(memory, timeout_s=1)
    for _ in range(3):
        assert (await cache.lookup(request(), RequestContext.start(60)))[0] is Outcome.BYPASS
    assert memory.lookups == 1


async def test_a_caller_in_a_hurry_is_no_fault_of_the_cache() -> None:
    """One whose own deadline ends the lookup does not turn the cache off for the others."""
    memory = Memory()
    cache = ResponseCache(memory, timeout_s=30)
    cache.keep(request(), ANSWER, "id")
    hurried = await cache.lookup(request(), RequestContext.start(0.01))
    assert hurried == (Outcome.BYPASS, None)
    assert (await cache.lookup(request(2), RequestContext.start(60)))[0] is Outcome.MISS
    memory.gate.set()
    await cache.drain()


async def test_what_was_stored_or_found_is_recalled() -> None:
    """A key finds its request once the answer is stored, or was found; a miss leaves nothing."""
    memory = Memory()
    key = MemoKey("dev", MODEL, InferenceRequest(Prompts(("Hi",)), Options(model="tiny"), 16))
    first, second = ResponseCache(memory, timeout_s=30), ResponseCache(memory, timeout_s=30)
    await second.lookup(request(), RequestContext.start(60), key)
    first.keep(request(), ANSWER, "id", key)
    assert first.recall(key) is second.recall(key) is None
    memory.gate.set()
    await first.drain()
    assert first.recall(key) == request()
    await second.lookup(request(), RequestContext.start(60), key)
    assert second.recall(key) == request()


def test_policy() -> None:
    """no-store forbids both ways, no-cache forbids only the answer."""
    assert Policy.of({}, no_store=False) == Policy(True, True)
    assert Policy.of({"no-cache": ""}, no_store=False) == Policy(False, True)
    assert Policy.of({"no-store": ""}, no_store=False) == Policy(False, False)
    assert Policy.of({"max-age": "0"}, no_store=False) == Policy(False, True)
    assert Policy.of({"max-age": "60"}, no_store=False) == Policy(True, True)
    assert Policy.of({"max-age": "60"}, no_store=True) == Policy(False, False)
