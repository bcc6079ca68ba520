"""The pool's accounts and its order of recycling."""

import pytest

from services.generator.engine.block_pool import BlockPool


def named(pool: BlockPool, count: int) -> list[int]:
    """Allocate blocks and name each, as a request does when it fills them."""
    block_ids = pool.allocate(count)
    for block_id in block_ids:
        pool.prefix_cache.publish(b"hash of %d" % block_id, block_id)
    return block_ids


def test_a_block_is_free_used_or_cached() -> None:
    """The three counts follow a block's life and always add up to the total."""
    pool = BlockPool(4, 16)
    kept = named(pool, 1)
    plain = pool.allocate(2)
    assert (pool.num_free, pool.num_cached, pool.num_used) == (1, 0, 3)
    pool.release(kept)
    pool.release(plain)
    assert (pool.num_free, pool.num_cached, pool.num_used) == (3, 1, 0)
    pool.check([])


def test_a_shared_block_is_released_by_its_last_holder() -> None:
    """A block with two holders stays in use until both let go."""
    pool = BlockPool(2, 16)
    block_ids = named(pool, 1)
    pool.share(block_ids)
    pool.release(block_ids)
    assert pool.num_used == 1
    pool.check([block_ids])
    pool.release(block_ids)
    assert pool.num_used == 0


def test_sharing_revives_a_cached_block() -> None:
    """A hit on an idle block takes it out of recycling."""
    pool = BlockPool(1, 16)
    block_ids = named(pool, 1)
    pool.release(block_ids)
    pool.share(block_ids)
    assert pool.num_available == 0
    pool.check([block_ids])


def test_free_blocks_go_before_cached_ones() -> None:
    """Content is recycled only when nothing without content is left."""
    pool = BlockPool(3, 16)
    kept = named(pool, 1)
    pool.release(kept)
    pool.allocate(2)
    assert kept[0] in pool.prefix_cache
    assert pool.allocate(1) == kept
    assert kept[0] not in pool.prefix_cache


def test_the_least_recently_released_block_is_recycled_first() -> None:
    """Requests that ended earlier lose their content earlier."""
    pool = BlockPool(2, 16)
    first, second = named(pool, 1), named(pool, 1)
    pool.release(second)
    pool.release(first)
    assert pool.allocate(2) == second + first


def test_a_prefix_outlives_its_continuation() -> None:
    """Within one request the last block is recycled before the first."""
    pool = BlockPool(3, 16)
    block_ids = named(pool, 3)
    pool.release(block_ids)
    assert pool.allocate(3) == block_ids[::-1]


def test_tainted_blocks_lose_their_name_and_wait_for_clearing() -> None:
    """A tainted block cannot be hit, and is reported once, when nobody holds it any more."""
    pool = BlockPool(2, 16)
    block_ids = named(pool, 2)
    pool.taint(block_ids)
    assert pool.take_tainted() == []
    pool.release(block_ids)
    assert sorted(pool.take_tainted()) == sorted(block_ids)
    assert pool.take_tainted() == []
    assert (pool.num_free, pool.num_cached) == (2, 0)


def test_releasing_twice_is_a_bug() -> None:
    """A double release stops at once instead of corrupting the accounts."""
    pool = BlockPool(1, 16)
    block_ids = pool.allocate(1)
    pool.release(block_ids)
    with pytest.raises(AssertionError, match="freed twice"):
        pool.release(block_ids)


def test_check_sees_a_foreign_holder() -> None:
    """The check compares the counted holders with the tables that exist."""
    pool = BlockPool(2, 16)
    block_ids = pool.allocate(1)
    pool.check([block_ids])
    with pytest.raises(AssertionError):
        pool.check([block_ids, block_ids])
    with pytest.raises(AssertionError):
        pool.check([])


def test_blocks_for_tokens_round_up() -> None:
    """A started block is a whole block."""
    pool = BlockPool(1, 16)
    assert [pool.num_blocks_for(n) for n in (0, 1, 16, 17)] == [0, 1, 1, 2]


def test_repr_shows_the_counts() -> None:
    """The live counts can be read off the repr."""
    pool = BlockPool(3, 16)
    pool.allocate(1)
    assert repr(pool) == "BlockPool(free 2, cached 0, used 1, total 3 x 16 tokens)"
