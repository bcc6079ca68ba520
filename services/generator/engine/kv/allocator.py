"""Block allocation for running sequences: growth, copy on write, and release.

Where blocks are too few it says so and changes nothing; preemption is the scheduler's decision.
"""

from collections.abc import Iterable

from services.generator.engine.kv.block_pool import BlockPool
from services.generator.engine.kv.prefix_sharing import PrefixSharing
from services.generator.engine.request import Request


class CopyOnWrite:
    """The block copies that the next step needs before it writes.

    Only a partly filled last block is ever copied: full ones are not written again.
    """

    def __init__(self, pool: BlockPool) -> None:
        self._pool = pool
        self._source_by_target: dict[int, int] = {}

    def num_needed(self, request: Request) -> int:
        """Return 1 if the block that the request writes into next is held by others too, or 0."""
        index = request.num_computed_tokens // self._pool.block_size
        block_ids = request.block_ids
        return int(index < len(block_ids) and self._pool.num_holders(block_ids[index]) > 1)

    @property
    def is_pending(self) -> bool:
        """True while there is something to take."""
        return bool(self._source_by_target)

    def detach(self, request: Request) -> None:
        """Give the request its own copy of the shared block that it writes into next."""
        index = request.num_computed_tokens // self._pool.block_size
        shared = request.block_ids[index]
        [request.block_ids[index]] = self._pool.allocate(1, request.priority)
        self._pool.release([shared])
        # if the sequence was preempted since, the target may belong to another one by now
        self._source_by_target[request.block_ids[index]] = shared

    def take(self) -> list[tuple[int, int]]:
        """Return the pairs (from, to) to be copied now, each target once, all read first."""
        pairs = [(source, target) for target, source in self._source_by_target.items()]
        self._source_by_target = {}
        return pairs


class BlockAllocator:
    """Keeps the block tables of running sequences as long as what they compute."""

    def __init__(self, pool: BlockPool, prefixes: PrefixSharing) -> None:
        self._pool = pool
        self._prefixes = prefixes
        self._copies = CopyOnWrite(pool)

    @property
    def num_available(self) -> int:
        """Blocks that can be handed out now."""
        return self._pool.num_available

    def num_missing(self, request: Request, num_tokens: int) -> int:
        """Return how many blocks must be allocated before a request has `num_tokens` computed."""
        num_new = self._pool.num_blocks_for(num_tokens) - len(request.block_ids)
        return num_new + self._copies.num_needed(request)

    def ensure(self, request: Request, num_tokens: int) -> bool:
        """Give a running request blocks of its own for `num_tokens`; False if there are too few."""
        num_new = self._pool.num_blocks_for(num_tokens) - len(request.block_ids)
        num_copies = self._copies.num_needed(request)
        if num_new <= 0 and not num_copies:
            return True
        if num_new + num_copies > self._pool.num_available:
            return False
        if num_copies:
            self._copies.detach(request)
        if num_new > 0:
            request.block_ids += self._pool.allocate(num_new, request.priority)
        return True

    def ensure_drafts(self, request: Request, num_tokens: int, num_drafts: int) -> int:
        """Return for how many drafts after `num_tokens` a request has blocks now.

        It takes only what is available: no request is preempted for a draft.
        """
        num_new = self._pool.num_blocks_for(num_tokens + num_drafts) - len(request.block_ids)
        num_new = min(num_new, self._pool.num_available)
        if num_new > 0:
            request.block_ids += self._pool.allocate(num_new, request.priority)
        return min(num_drafts, len(request.block_ids) * self._pool.block_size - num_tokens)

    def trim(self, request: Request) -> None:
        """Take back the blocks behind the computed tokens, after drafts that were rejected."""
        num_blocks = self._pool.num_blocks_for(request.num_computed_tokens)
        self._pool.release(request.block_ids[num_blocks:])
        del request.block_ids[num_blocks:]

    def release(self, request: Request) -> None:
        """Take back all blocks of a request, and of the other sequences of its group."""
        self._prefixes.drop(request)
        for sequence in (*(s for s in request.sequences if s is not request), request):
            self._pool.release(sequence.block_ids)
            sequence.block_ids = []

    @property
    def has_copies(self) -> bool:
        """True while blocks are to be copied before the next chunks are computed."""
        return self._copies.is_pending

    def take_copies(self) -> list[tuple[int, int]]:
        """Return the blocks (from, to) to copy before the next chunks are computed."""
        return self._copies.take()

    def reset(self) -> None:
        """Forget the copies that are due."""
        self._copies = CopyOnWrite(self._pool)

    def waste(self, running: Iterable[Request]) -> float:
        """Return the share of the token slots in used blocks that hold nothing."""
        size = self._pool.block_size
        # forks may share the last block
        num_empty = {
            r.block_ids[-1]: len(r.block_ids) * size - r.num_computed_tokens for r in running
        }
        return sum(num_empty.values()) / max(1, self._pool.num_used * size)
