"""Names of prefixes and the blocks behind them."""

from services.generator.engine.kv.prefix_cache import PrefixCache, chain_hash, root_hash


def test_a_hash_names_the_tokens_after_exactly_that_prefix() -> None:
    """Other tokens, another parent or another salt give another hash."""
    root = root_hash("")
    one = chain_hash(root, [1, 2])
    assert one == chain_hash(root_hash(""), [1, 2])
    others = {chain_hash(root, [2, 1]), chain_hash(one, [1, 2]), chain_hash(root_hash("b"), [1, 2])}
    assert len(others | {one}) == 4


def test_match_returns_the_longest_known_prefix() -> None:
    """The walk stops at the first unknown block, even if a later one is known."""
    cache = PrefixCache(16)
    cache.publish(b"a", b"root", 7)
    cache.publish(b"b", b"root", 3)
    cache.publish(b"d", b"root", 5)
    assert cache.match([b"a", b"b", b"c", b"d"]) == [7, 3]
    assert cache.match([b"c"]) == []


def test_the_first_block_keeps_its_name() -> None:
    """A second block with the same content stays nameless, and a name does not move."""
    cache = PrefixCache(16)
    cache.publish(b"a", b"root", 1)
    cache.publish(b"a", b"root", 2)
    cache.publish(b"z", b"root", 1)
    assert cache.match([b"a"]) == [1]
    assert 2 not in cache
    assert cache.match([b"z"]) == []
    cache.check()


def test_forgetting_is_idempotent() -> None:
    """A forgotten block is unknown both ways; forgetting it again does nothing."""
    cache = PrefixCache(16)
    cache.publish(b"a", b"root", 1)
    cache.forget(1)
    cache.forget(1)
    assert cache.match([b"a"]) == []
    assert len(cache) == 0
    cache.check()
