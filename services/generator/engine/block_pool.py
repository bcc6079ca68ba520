"""The KV cache's blocks as numbers: who holds each, and which may be recycled next.

A block is free (no content), cached (content kept, nobody holds it) or used (held by someone).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence

from services.generator.engine.prefix_cache import PrefixCache


class BlockPool:
    """Hands out block ids 0..num_blocks-1, counts holders, recycles the least recently used."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.prefix_cache = PrefixCache()
        self._free = list(range(num_blocks - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._num_holders = [0] * num_blocks
        self._tainted: set[int] = set()

    @property
    def num_free(self) -> int:
        """Blocks without content."""
        return len(self._free)

    @property
    def num_cached(self) -> int:
        """Blocks that nobody holds but whose prefix can still be hit."""
        return len(self._cached)

    @property
    def num_available(self) -> int:
        """Blocks that `allocate` can hand out now."""
        return len(self._free) + len(self._cached)

    @property
    def num_used(self) -> int:
        """Blocks held by at least one request."""
        return self.num_blocks - self.num_available

    def num_blocks_for(self, num_tokens: int) -> int:
        """Return how many blocks hold that many tokens."""
        return -(-num_tokens // self.block_size)

    def allocate(self, count: int) -> list[int]:
        """Return `count` blocks held once each; the caller has asked `num_available` before."""
        assert count <= self.num_available, f"{count} blocks of {self!r}. This is a bug."
        block_ids = [self._take() for _ in range(count)]
        for block_id in block_ids:
            self._num_holders[block_id] = 1
        return block_ids

    def share(self, block_ids: Iterable[int]) -> None:
        """Add one holder to each block of a prefix hit."""
        for block_id in block_ids:
            self._cached.pop(block_id, None)
            self._num_holders[block_id] += 1

    def release(self, block_ids: Sequence[int]) -> None:
        """Take one holder from each block of a request; unheld named blocks stay cached.

        Goes from the tail, so that a prefix outlives its continuations.
        """
        for block_id in reversed(block_ids):
            assert self._num_holders[block_id] > 0, f"block {block_id} freed twice. This is a bug."
            self._num_holders[block_id] -= 1
            if self._num_holders[block_id] == 0:
                self._retire(block_id)

    def taint(self, block_ids: Iterable[int]) -> None:
        """Distrust the content of a failed request's blocks: nobody may hit them any more."""
        for block_id in block_ids:
            self.prefix_cache.forget(block_id)
            self._tainted.add(block_id)

    def take_tainted(self) -> list[int]:
        """Return the tainted blocks that nobody holds; the caller clears them before reuse."""
        idle = [block_id for block_id in self._tainted if self._num_holders[block_id] == 0]
        self._tainted.difference_update(idle)
        return idle

    def check(self, tables: Iterable[Sequence[int]] | None = None) -> None:
        """Assert free + cached + used = total, and that the holders are exactly `tables`."""
        self.prefix_cache.check()
        free, cached = set(self._free), set(self._cached)
        used = {i for i, holders in enumerate(self._num_holders) if holders > 0}
        assert len(free) == len(self._free), "a block is free twice. This is a bug."
        assert len(free) + len(cached) + len(used) == self.num_blocks, f"{self!r} does not add up"
        assert free | cached | used == set(range(self.num_blocks)), (
            "a block is lost. This is a bug."
        )
        assert all(i in self.prefix_cache for i in cached), "a cached block has no name"
        assert not any(i in self.prefix_cache for i in free), "a free block has a name"
        if tables is not None:
            held = Counter(block_id for table in tables for block_id in table)
            assert all(held[i] == n for i, n in enumerate(self._num_holders)), "holders differ"

    def _take(self) -> int:
        if self._free:
            return self._free.pop()
        block_id, _ = self._cached.popitem(last=False)
        self.prefix_cache.forget(block_id)
        return block_id

    def _retire(self, block_id: int) -> None:
        if block_id in self.prefix_cache:
            self._cached[block_id] = None
        else:
            self._free.append(block_id)

    def __repr__(self) -> str:
        return (
            f"BlockPool(free {self.num_free}, cached {self.num_cached}, used {self.num_used}, "
            f"total {self.num_blocks} x {self.block_size} tokens)"
        )
