"""Block pool of the paged KV cache: how many requests hold each block, and which are recycled.

A block is free (no content), cached (content kept, without a holder) or used (held by a request).
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from services.generator.engine.kv.eviction import IdleBlocks
from services.generator.engine.kv.prefix_cache import PrefixCache


class BlockPool:
    """Hands out block ids 0..num_blocks-1, counts holders, recycles what is worth least.

    A block has the most urgent priority of those that hold it, or held it together at the last.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.prefix_cache = PrefixCache(block_size)
        self._free = list(range(num_blocks - 1, -1, -1))
        self._cached = IdleBlocks(self.prefix_cache, num_blocks)
        self._num_holders = [0] * num_blocks
        self._priorities = [0] * num_blocks
        self._tainted: set[int] = set()

    @property
    def num_free(self) -> int:
        """Blocks without content."""
        return len(self._free)

    @property
    def num_cached(self) -> int:
        """Blocks without a holder whose prefix can still be hit."""
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

    def allocate(self, count: int, priority: int = 0) -> list[int]:
        """Return `count` blocks held once each; the caller has asked `num_available` before."""
        assert count <= self.num_available, f"{count} blocks of {self!r}. This is a bug."
        block_ids = [self._take() for _ in range(count)]
        for block_id in block_ids:
            self._num_holders[block_id] = 1
            self._priorities[block_id] = priority
        return block_ids

    def share(self, block_ids: Iterable[int], priority: int = 0) -> None:
        """Add one holder to each block of a prefix hit."""
        for block_id in block_ids:
            is_held = self._num_holders[block_id] > 0
            held_for = self._priorities[block_id]
            self._priorities[block_id] = min(held_for, priority) if is_held else priority
            self._cached.discard(block_id)
            self._num_holders[block_id] += 1

    def release(self, block_ids: Sequence[int]) -> None:
        """Take one holder from each block of a request; unheld named blocks stay cached."""
        for block_id in reversed(block_ids):
            assert self._num_holders[block_id] > 0, f"block {block_id} freed twice. This is a bug."
            self._num_holders[block_id] -= 1
            if self._num_holders[block_id] == 0:
                self._retire(block_id)

    def taint(self, block_ids: Iterable[int]) -> None:
        """Distrust the content of a failed request's blocks: they are not hit any more."""
        for block_id in block_ids:
            self._forget(block_id)
            self._tainted.add(block_id)

    def take_tainted(self) -> list[int]:
        """Return the tainted blocks without a holder; the caller clears them before reuse."""
        idle = [block_id for block_id in self._tainted if self._num_holders[block_id] == 0]
        self._tainted.difference_update(idle)
        return idle

    def reset(self) -> None:
        """Take back and taint every block that is neither free nor cached, whatever holds it."""
        idle = {*self._free, *self._cached}
        suspects = [block_id for block_id in range(self.num_blocks) if block_id not in idle]
        self._num_holders = [0] * self.num_blocks
        self.taint(suspects)
        self._free += suspects

    def pin(self, block_hashes: Sequence[bytes]) -> None:
        """Evict these contents last, whether they exist already or not."""
        self.prefix_cache.pin(block_hashes)

    def unpin(self, block_hashes: Sequence[bytes]) -> None:
        """Take back one `pin` of the same hashes."""
        for block_id in self.prefix_cache.unpin(block_hashes):
            self._cached.refresh(block_id)

    def num_holders(self, block_id: int) -> int:
        """Return how many requests hold the block."""
        return self._num_holders[block_id]

    def check(self, tables: Iterable[Sequence[int]] | None = None) -> None:
        """Assert free + cached + used = total, and that the holders are exactly `tables`."""
        self.prefix_cache.check()
        self._cached.check()
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
        block_id = self._cached.pop()
        self._forget(block_id)
        return block_id

    def _forget(self, block_id: int) -> None:
        parent_id = self.prefix_cache.forget(block_id)
        if parent_id is not None:
            self._cached.refresh(parent_id)

    def _retire(self, block_id: int) -> None:
        if block_id in self.prefix_cache:
            self._cached.add(block_id, self._priorities[block_id])
        else:
            self._free.append(block_id)

    def __repr__(self) -> str:
        return (
            f"BlockPool(free {self.num_free}, cached {self.num_cached}, used {self.num_used}, "
            f"total {self.num_blocks} x {self.block_size} tokens)"
        )
