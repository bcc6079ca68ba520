"""How requests use what others computed: the known blocks of a prompt, and who makes the rest."""

from __future__ import annotations

from collections.abc import Collection

from services.generator.engine.kv.block_pool import BlockPool
from services.generator.engine.kv.pending_blocks import PendingBlocks
from services.generator.engine.kv.prefix_cache import chain_hash
from services.generator.engine.request import Request


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

    def started(self, request: Request) -> None:
        """The request runs from its hits on, and will compute the other blocks that it knows."""
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
            self._pending.computed(block_hash)

    def drop(self, request: Request) -> None:
        """The request ended or was preempted: what it was to compute is anybody's."""
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
