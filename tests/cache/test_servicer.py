"""The cache over gRPC, with a real Redis."""

import asyncio
import time
from typing import Any

import grpc
import pytest
from prometheus_client import REGISTRY
from redis.asyncio import Redis

from mesh.lifecycle import State
from mesh.pb import cache_pb2 as pb
from mesh.pb.cache_pb2_grpc import CacheStub
from mesh.pb.common_pb2 import FinishReason, SamplingParams, Usage
from services.cache import keys
from tests.cache.conftest import MAX_ANSWER_BYTES, TIMEOUT_S, serving


def key(tenant: str = "t", prompt: tuple[int, ...] = (1, 2, 3)) -> pb.CacheKey:
    """One request."""
    sampling = SamplingParams(max_tokens=8)
    return pb.CacheKey(
        tenant=tenant, model="m", model_revision="r", prompt_token_ids=prompt, sampling=sampling
    )


def answer(text: str = "Hello — there.") -> pb.CachedAnswer:
    """A whole answer."""
    return pb.CachedAnswer(
        text=text,
        finish_reason=FinishReason.FINISH_REASON_STOP,
        usage=Usage(prompt_tokens=3, completion_tokens=4),
    )


async def store(cache: CacheStub, asked: pb.CacheKey, **fields: Any) -> bool:
    """Stores an answer; True when it was kept."""
    request = pb.StoreRequest(key=asked, **{"answer": answer(), **fields})
    return (await cache.Store(request)).stored


async def lookup(cache: CacheStub, asked: pb.CacheKey) -> pb.CachedAnswer | None:
    """The answer, or None for a miss."""
    response = await cache.Lookup(pb.LookupRequest(key=asked))
    return response.answer if response.HasField("answer") else None


def metric(name: str) -> float:
    """A counter's value now."""
    return REGISTRY.get_sample_value(f"infermesh_cache_{name}_total") or 0.0


async def test_an_answer_comes_back_as_it_was_stored(cache: CacheStub) -> None:
    """Byte-identical text and usage; the service adds when it was made."""
    assert await lookup(cache, key()) is None
    assert await store(cache, key())
    found = await lookup(cache, key())
    assert found is not None
    assert abs(found.created_unix_s - time.time()) < 5
    found.created_unix_s = 0
    assert found == answer()


async def test_another_request_is_a_miss(cache: CacheStub) -> None:
    """Another tenant's too."""
    await store(cache, key())
    assert await lookup(cache, key(prompt=(1, 2))) is None
    assert await lookup(cache, key(tenant="u")) is None


async def test_hits_and_misses_are_counted(cache: CacheStub) -> None:
    """And what is stored, in answers and bytes."""
    names = ("hits", "misses", "stored", "stored_bytes")
    before = {name: metric(name) for name in names}
    await lookup(cache, key())
    await store(cache, key())
    await lookup(cache, key())
    more = {name: metric(name) - before[name] for name in names}
    assert (more["hits"], more["misses"], more["stored"]) == (1, 1, 1)
    assert more["stored_bytes"] > len(answer().text)


async def test_an_answer_lives_as_long_as_asked_else_the_default(
    cache: CacheStub, redis: Redis
) -> None:
    """60 s here."""
    await store(cache, key())
    await store(cache, key(prompt=(9,)), ttl_s=7)
    assert 50 < await redis.ttl(keys.name(key())) <= 60
    assert 0 < await redis.ttl(keys.name(key(prompt=(9,)))) <= 7


async def test_a_large_answer_is_not_kept(cache: CacheStub) -> None:
    """That is no error."""
    assert not await store(cache, key(), answer=answer("x" * MAX_ANSWER_BYTES))
    assert await lookup(cache, key()) is None


@pytest.mark.parametrize(
    "value", [b"\xff\xff\xff", b"", pb.CachedAnswer(text="x").SerializeToString()]
)
async def test_what_is_no_answer_is_a_miss_and_goes(
    cache: CacheStub, redis: Redis, value: bytes
) -> None:
    """Someone else wrote it, or the disk did."""
    await redis.set(keys.name(key()), value)
    assert await lookup(cache, key()) is None
    assert await redis.exists(keys.name(key())) == 0


async def test_invalidation_forgets_one_tenant(cache: CacheStub) -> None:
    """However many answers it has, and whatever it is called."""
    for prompt in range(1, 20):
        await store(cache, key("*", (prompt,)))
    await store(cache, key("t"))
    removed = await cache.Invalidate(pb.InvalidateRequest(tenant="*"))
    assert removed.removed == 19
    assert await lookup(cache, key("*", (1,))) is None
    assert await lookup(cache, key("t")) is not None


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.LookupRequest(), "key.model"),
        (pb.LookupRequest(key=pb.CacheKey(model="m")), "key.prompt_token_ids"),
        (
            pb.LookupRequest(key=pb.CacheKey(model="m", prompt_token_ids=[1] * (2**17 + 1))),
            "key.prompt_token_ids",
        ),
        (pb.StoreRequest(), "key.model"),
        (pb.StoreRequest(key=key()), "answer.finish_reason"),
        (
            pb.StoreRequest(
                key=key(), answer=pb.CachedAnswer(finish_reason=FinishReason.FINISH_REASON_ABORT)
            ),
            "answer.finish_reason",
        ),
    ],
)
async def test_a_request_that_determines_nothing_is_refused(
    cache: CacheStub, request_: Any, field: str
) -> None:
    """By the name of its field."""
    method = cache.Lookup if isinstance(request_, pb.LookupRequest) else cache.Store
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await method(request_)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in (caught.value.details() or "")


async def test_without_redis_calls_fail_fast_and_it_recovers_by_itself(killable_redis) -> None:
    """The process stays; its ping tells; the first call after the return works."""
    killable_redis.start()
    async for cache, lifecycle in serving(killable_redis.url, TIMEOUT_S):
        lifecycle.advance(State.READY)
        await store(cache, key())
        assert await lifecycle.checks.failing() == {}

        killable_redis.kill()
        for call in (lookup(cache, key()), store(cache, key())):
            started = time.monotonic()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert time.monotonic() - started < 1
        assert list(await lifecycle.checks.failing()) == ["redis"]

        await asyncio.to_thread(killable_redis.start)
        assert await store(cache, key())
        assert await lookup(cache, key()) is not None
        assert await lifecycle.checks.failing() == {}


async def test_many_calls_at_once(cache: CacheStub) -> None:
    """More than there are connections to Redis."""
    prompts = [(n,) for n in range(1, 300)]
    assert all(await asyncio.gather(*(store(cache, key(prompt=p)) for p in prompts)))
    found = await asyncio.gather(*(lookup(cache, key(prompt=p)) for p in prompts))
    assert None not in found
