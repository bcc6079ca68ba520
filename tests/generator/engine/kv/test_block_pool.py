"""The pool's accounts and its order of recycling."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.generator.engine.kv.block_pool import BlockPool
from services.generator.engine.kv.events import BlockEventKind


def named(pool: BlockPool, count: int) -> list[int]:
    """Allocate blocks and name each, as a request does when it fills them."""
    block_ids = pool.allocate(count)
    for block_id in block_ids:
        pool.prefix_cache.publish(b"hash of %d" % block_id, b"root", block_id)
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


def chained(pool: BlockPool, names: list[bytes], priority: int = 0) -> list[int]:
    """Allocate one block per name, each the continuation of the one before."""
    block_ids = pool.allocate(len(names), priority)
    for parent, name, block_id in zip([b"root", *names], names, block_ids, strict=False):
        pool.prefix_cache.publish(name, parent, block_id)
    return block_ids


def test_a_prefix_outlives_its_continuation() -> None:
    """Within one request the last block is recycled before the first."""
    pool = BlockPool(3, 16)
    block_ids = chained(pool, [b"a", b"b", b"c"])
    pool.release(block_ids)
    assert pool.allocate(3) == block_ids[::-1]


def test_a_parent_goes_after_a_child_that_was_used_later() -> None:
    """Leaves go first, even where the parent's last use lies further back."""
    pool = BlockPool(3, 16)
    parent, child, other = chained(pool, [b"a", b"b"]) + named(pool, 1)
    pool.release([parent])
    pool.release([other])
    pool.release([child])
    assert pool.allocate(3) == [other, child, parent]


def test_a_parent_of_a_held_child_goes_when_nothing_else_is_left() -> None:
    """A block whose continuation another request holds is no obstacle, only the last choice."""
    pool = BlockPool(3, 16)
    parent, child, other = chained(pool, [b"a", b"b"]) + named(pool, 1)
    pool.release([parent])
    pool.release([other])
    assert pool.allocate(2) == [other, parent]
    pool.check([[child], [other, parent]])


def test_urgent_content_stays_longer_but_not_for_ever() -> None:
    """One level of priority is worth one turnover of the whole pool."""
    pool = BlockPool(4, 16)
    urgent = chained(pool, [b"a"], priority=-1)
    pool.release(urgent)
    others = pool.allocate(3)
    evicted: list[int] = []
    while urgent[0] not in evicted:
        pool.prefix_cache.publish(b"turn %d" % len(evicted), b"root", others[0])
        pool.release(others[:1])
        others = others[1:] + pool.allocate(1)
        evicted += others[-1:]
    assert len(evicted) == pool.num_blocks


def test_a_block_is_as_urgent_as_its_most_urgent_holder() -> None:
    """While several hold a block the most urgent counts; a later use begins anew."""
    pool = BlockPool(2, 16)
    shared, other = chained(pool, [b"a"]), chained(pool, [b"b"])
    pool.share(shared, priority=-1)
    pool.release(shared * 2)
    pool.release(other)
    assert pool.allocate(1) == other
    pool.share(shared, priority=5)
    pool.prefix_cache.publish(b"c", b"root", other[0])
    pool.release(other)
    pool.release(shared)
    assert pool.allocate(1) == shared


def test_pinned_content_goes_last() -> None:
    """A pin holds for content that exists and that comes later, until it is taken back."""
    pool = BlockPool(3, 16)
    pool.pin([b"a", b"b"])
    pinned, other = chained(pool, [b"a", b"b"]), named(pool, 1)
    pool.release(pinned)
    pool.release(other)
    assert pool.allocate(1) == other
    pool.unpin([b"a", b"b"])
    pool.prefix_cache.publish(b"c", b"root", other[0])
    pool.release(other)
    assert pool.allocate(1) == pinned[1:]
    pool.check([pinned[1:]])


def test_pins_never_starve_anyone() -> None:
    """With nothing else left even pinned blocks are recycled, from the tail."""
    pool = BlockPool(2, 16)
    pool.pin([b"a", b"b"])
    pinned = chained(pool, [b"a", b"b"])
    pool.release(pinned)
    assert pool.allocate(2) == pinned[::-1]
    pool.unpin([b"a", b"b"])
    pool.check([pinned])


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(1, 6), st.integers(-1, 1), st.booleans()),
        max_size=40,
    )
)
def test_a_reader_of_the_events_knows_every_name(
    lives: list[tuple[int, int, int, bool]],
) -> None:
    """However blocks come and go, replayed events give the snapshot, children after parents."""
    pool = BlockPool(8, 16)
    known: dict[bytes, bytes] = {}
    number = 0
    for stem, length, priority, keep_pin in lives:
        names = [b"%d/%d" % (stem, depth) for depth in range(length)]
        hits = pool.prefix_cache.match(names)
        pool.share(hits, priority)
        block_ids = hits + pool.allocate(length - len(hits), priority)
        for parent, name, block_id in zip([b"root", *names], names, block_ids, strict=False):
            pool.prefix_cache.publish(name, parent, block_id)
        pool.pin(names)
        pool.check([block_ids])
        pool.release(block_ids)
        if not keep_pin:
            pool.unpin(names)
        pool.check([])
        events = pool.prefix_cache.events_since(number)
        assert events is not None
        assert [event.number for event in events] == list(
            range(number + 1, number + 1 + len(events))
        )
        for event in events:
            assert event.num_tokens == 16
            assert event.block_hash not in known.values() or event.kind is BlockEventKind.STORED
            if event.kind is BlockEventKind.STORED:
                assert event.parent_hash in known or event.parent_hash == b"root"
                known[event.block_hash] = event.parent_hash
            else:
                assert known.pop(event.block_hash) == event.parent_hash
        number += len(events)
        snapshot = pool.prefix_cache.snapshot()
        assert (snapshot.number, dict(snapshot.blocks)) == (number, known)


def test_tainted_blocks_lose_their_name_and_wait_for_clearing() -> None:
    """A tainted block cannot be hit, and is reported once, when it has no holder any more."""
    pool = BlockPool(2, 16)
    block_ids = named(pool, 2)
    pool.taint(block_ids)
    assert pool.take_tainted() == []
    pool.release(block_ids)
    assert sorted(pool.take_tainted()) == sorted(block_ids)
    assert pool.take_tainted() == []
    assert (pool.num_free, pool.num_cached) == (2, 0)


def test_a_reset_takes_back_what_was_held() -> None:
    """Held blocks are free, nameless and tainted after it, lost ones too; idle content stays."""
    pool = BlockPool(6, 16)
    idle, held = named(pool, 1), named(pool, 2)
    pool.release(idle)
    lost = pool._free.pop()
    pool.reset()
    pool.check([])
    assert (pool.num_free, pool.num_cached) == (5, 1)
    assert sorted(pool.take_tainted()) == sorted([*held, lost])
    assert pool.prefix_cache.match([b"hash of %d" % idle[0]]) == idle


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
