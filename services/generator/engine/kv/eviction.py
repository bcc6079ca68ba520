"""Eviction order: which idle block loses its content next."""

import heapq
from collections.abc import Iterator

from services.generator.engine.kv.prefix_cache import PrefixCache

_STALE_ENTRIES = 64


# Sort key of eviction, first out first: unpinned before pinned, leaves before parents, then the
# least recently used, where a level of priority is worth a turnover of the whole pool.
_Rank = tuple[bool, bool, int]


class IdleBlocks:
    """The named blocks without a holder, in the order of their eviction.

    Priority shifts the moment of the last use instead of ruling absolutely, so that urgent content
    that is not used any more goes too (GreedyDual, Young 1994). A pin is the strongest wish, yet no
    lock: with nothing else left, pinned blocks go, and no request waits for an unpin.
    The heap is lazy: an entry whose rank is outdated is corrected when it surfaces.
    """

    def __init__(self, prefix_cache: PrefixCache, num_blocks: int) -> None:
        self._prefix_cache = prefix_cache
        self._num_blocks = num_blocks
        self._worth: dict[int, int] = {}
        self._heap: list[tuple[_Rank, int]] = []
        self._num_retired = 0

    def __len__(self) -> int:
        return len(self._worth)

    def __contains__(self, block_id: int) -> bool:
        return block_id in self._worth

    def __iter__(self) -> Iterator[int]:
        return iter(self._worth)

    def add(self, block_id: int, priority: int) -> None:
        """Take in a named block that lost its last holder; a lower priority number stays longer."""
        self._num_retired += 1
        self._worth[block_id] = self._num_retired - priority * self._num_blocks
        self.refresh(block_id)

    def discard(self, block_id: int) -> None:
        """Forget a block that is held again or lost its name."""
        self._worth.pop(block_id, None)

    def refresh(self, block_id: int) -> None:
        """Reconsider a block that may go earlier now: a leaf, or not pinned, any more."""
        if block_id in self._worth:
            heapq.heappush(self._heap, (self._rank(block_id), block_id))
            if len(self._heap) > 2 * len(self._worth) + _STALE_ENTRIES:
                self._heap = [(self._rank(i), i) for i in self._worth]
                heapq.heapify(self._heap)

    def pop(self) -> int:
        """Remove and return the block to evict; there must be one."""
        while True:
            rank, block_id = heapq.heappop(self._heap)
            if block_id not in self._worth:
                continue
            current = self._rank(block_id)
            if rank == current:
                del self._worth[block_id]
                return block_id
            heapq.heappush(self._heap, (current, block_id))

    def check(self) -> None:
        """Assert that each idle block can surface at its rank or before."""
        best: dict[int, _Rank] = {}
        for rank, block_id in self._heap:
            best[block_id] = min(rank, best.get(block_id, rank))
        assert all(best[i] <= self._rank(i) for i in self._worth), "an idle block is hidden"

    def _rank(self, block_id: int) -> _Rank:
        names = self._prefix_cache
        return names.is_pinned(block_id), names.has_children(block_id), self._worth[block_id]

    def __repr__(self) -> str:
        return f"IdleBlocks({len(self)})"
