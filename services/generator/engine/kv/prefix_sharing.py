"""Prefix caching across live requests: a prompt's cached blocks, and those being computed now.

A request whose next prefix block another one is computing waits for it, so that no block is
computed twice.
"""

from collections.abc import Collection, Iterable

from services.generator.engine.kv.block_pool import BlockPool
from services.generator.engine.kv.prefix_cache import chain_hash
from services.generator.engine.request import Request


class PendingBlocks:
    """Block hashes claimed by running requests; the first to claim a hash keeps it.

    Only requests that run make claims, and those that wait hold no blocks: so a wait always ends,
    with the block computed, or with the claim dropped because its owner ended or was preempted.
    """

    def __init__(self) -> None:
        self._owner_by_hash: dict[bytes, Request] = {}
        self._hashes_by_owner: dict[Request, set[bytes]] = {}

    def __len__(self) -> int:
        return len(self._owner_by_hash)

    def claim(self, request: Request, block_hashes: Iterable[bytes]) -> None:
        """Announce that a request that runs now will compute these blocks."""
        own = {key for key in block_hashes if key not in self._owner_by_hash}
        if own:
            self._owner_by_hash.update(dict.fromkeys(own, request))
            self._hashes_by_owner.setdefault(request, set()).update(own)

    def complete(self, block_hash: bytes) -> None:
        """Drop the claim on a block that is computed now, by its owner or another request."""
        owner = self._owner_by_hash.pop(block_hash, None)
        if owner is not None:
            self._hashes_by_owner[owner].remove(block_hash)
            if not self._hashes_by_owner[owner]:
                del self._hashes_by_owner[owner]

    def drop(self, request: Request) -> None:
        """Drop the claims of a request that ended or was preempted; others may make them."""
        for block_hash in self._hashes_by_owner.pop(request, ()):
            del self._owner_by_hash[block_hash]

    def is_worth_waiting(self, request: Request, block_hash: bytes) -> bool:
        """Return whether another request computes this block, and is no less urgent than this one.

        A less urgent one is not worth waiting for: others may keep it from computing.
        """
        owner = self._owner_by_hash.get(block_hash)
        return owner is not None and owner.priority <= request.priority

    def check(self, running: Collection[Request]) -> None:
        """Assert that the two maps mirror each other and every owner runs."""
        claims = {key: owner for owner, keys in self._hashes_by_owner.items() for key in keys}
        assert claims == self._owner_by_hash, "claims differ. This is a bug."
        assert all(self._hashes_by_owner.values()), "an empty claim is left over"
        assert self._hashes_by_owner.keys() <= set(running), "a claim outlives its owner"

    def __repr__(self) -> str:
        return f"PendingBlocks({len(self)} of {len(self._hashes_by_owner)} requests)"


class PrefixSharing:
    """Names live requests' blocks and counts hits; turned off, nothing is hit or published."""

    def __init__(self, pool: BlockPool, is_on: bool) -> None:
        self.num_hit_tokens = 0
        self.num_query_tokens = 0
        self.num_waits = 0
        self._pool = pool
        self._is_on = is_on
        self._pending = PendingBlocks()

    def find_hits(self, request: Request) -> list[int] | None:
        """Return the blocks of its known prefix; None if the next one is being computed now."""
        if not self._is_on:
            return []
        num_blocks = request.num_skippable_tokens // self._pool.block_size
        self._extend_hashes(request, num_blocks)
        hashes = request.block_hashes[:num_blocks]
        hits = self._pool.prefix_cache.match(hashes)
        if len(hits) == len(hashes):
            return hits
        if not self._pending.is_worth_waiting(request, hashes[len(hits)]):
            return hits
        if not request.waited_for_prefix:
            request.waited_for_prefix = True
            self.num_waits += 1
        return None

    def start(self, request: Request) -> None:
        """Count the hits of a request that runs from them on; claim the other blocks it knows."""
        if not self._is_on:
            return
        self.num_query_tokens += request.num_tokens
        self.num_hit_tokens += request.num_computed_tokens
        num_hits = request.num_computed_tokens // self._pool.block_size
        num_full = request.num_tokens // self._pool.block_size
        self._extend_hashes(request, num_full)
        self._pending.claim(request, request.block_hashes[num_hits:num_full])

    def publish(self, request: Request, num_published: int) -> None:
        """Name the request's full blocks from `num_published` on, for others to hit."""
        num_full = request.num_computed_tokens // self._pool.block_size
        if not self._is_on or num_full == num_published:
            return
        self._extend_hashes(request, num_full)
        for index in range(num_published, num_full):
            block_hash = request.block_hashes[index]
            parent = request.block_hashes[index - 1] if index > 0 else request.root_hash
            self._pool.prefix_cache.publish(block_hash, parent, request.block_ids[index])
            self._pending.complete(block_hash)

    def drop(self, request: Request) -> None:
        """Drop what a request that ended or was preempted was to compute."""
        self._pending.drop(request)

    def reset(self) -> None:
        """Forget what live requests were to compute; the counters stay."""
        self._pending = PendingBlocks()

    def check(self, running: Collection[Request]) -> None:
        """Assert that only requests that run are waited for."""
        self._pending.check(running)

    def _extend_hashes(self, request: Request, num_blocks: int) -> None:
        size = self._pool.block_size
        for index in range(len(request.block_hashes), num_blocks):
            parent = request.block_hashes[-1] if request.block_hashes else request.root_hash
            tokens = request.token_ids[index * size : (index + 1) * size]
            request.block_hashes.append(chain_hash(parent, tokens))
