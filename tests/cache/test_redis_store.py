"""Values in a real Redis."""

import time

import pytest
from redis.asyncio import Redis

from mesh.errors import Code, MeshError
from services.cache.redis_store import SCAN_BATCH, RedisStore


async def test_a_value_is_kept_for_its_life(store: RedisStore, redis: Redis) -> None:
    """Redis itself forgets it then; a newer value takes its place."""
    assert await store.get(b"a") is None
    await store.put(b"a", b"\xff\x00", ttl_s=100)
    await store.put(b"a", b"\xff\x01", ttl_s=50)
    assert await store.get(b"a") == b"\xff\x01"
    assert 40 < await redis.ttl("a") <= 50


async def test_one_value_is_removed(store: RedisStore) -> None:
    """Removing it twice is no error."""
    await store.put(b"a", b"1", ttl_s=100)
    await store.remove(b"a")
    await store.remove(b"a")
    assert await store.get(b"a") is None


async def test_all_values_of_a_prefix_are_removed(store: RedisStore, redis: Redis) -> None:
    """In several batches, and no others."""
    number = 3 * SCAN_BATCH
    await redis.mset({f"mine:{n}": "x" for n in range(number)})
    await redis.mset({f"other:{n}": "x" for n in range(number)})
    assert await store.remove_all(b"mine:") == number
    assert await redis.dbsize() == number
    assert await store.remove_all(b"mine:") == 0


async def test_an_absent_redis_is_unavailable_at_once(killable_redis) -> None:
    """Well within the limit; closing works all the same, twice too."""
    store = RedisStore(killable_redis.url, 0.25)
    started = time.monotonic()
    with pytest.raises(MeshError) as caught:
        await store.get(b"a")
    assert time.monotonic() - started < 1
    assert caught.value.code is Code.UNAVAILABLE
    assert "redis" not in caught.value.message.lower()
    await store.close()
    await store.close()


async def test_a_redis_that_does_not_answer_is_unavailable_in_time(killable_redis) -> None:
    """It accepts connections and says nothing."""
    import asyncio

    hold: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(
        lambda _, writer: hold.append(writer), "127.0.0.1", killable_redis.port
    )
    store = RedisStore(killable_redis.url, 0.1)
    started = time.monotonic()
    with pytest.raises(MeshError):
        await store.ping()
    assert time.monotonic() - started < 1
    await store.close()
    for writer in hold:
        writer.close()
    silent.close()


async def test_a_killed_redis_is_found_again(killable_redis) -> None:
    """The connections of its last life are replaced."""
    killable_redis.start()
    store = RedisStore(killable_redis.url, 0.25)
    await store.put(b"a", b"1", ttl_s=100)
    killable_redis.kill()
    with pytest.raises(MeshError):
        await store.get(b"a")
    killable_redis.start()
    await store.put(b"b", b"2", ttl_s=100)
    assert await store.get(b"b") == b"2"
    await store.close()
