"""Which blocks a request that runs is given, and who gives way when there are too few."""

from __future__ import annotations

import logging

from services.generator.engine.kv.block_pool import BlockPool
from services.generator.engine.kv.prefix_sharing import PrefixSharing
from services.generator.engine.request import Request, RequestStatus
from services.generator.engine.scheduling.request_queue import RequestQueue
from services.generator.engine.scheduling.waiting_queue import WaitingQueue
from services.generator.engine.sequences.fork import CopyOnWrite

logger = logging.getLogger(__name__)


class BlockClaims:
    """Gives in scheduling order; takes from the last of those that run."""

    def __init__(
        self,
        pool: BlockPool,
        prefixes: PrefixSharing,
        waiting: WaitingQueue,
        running: RequestQueue,
    ) -> None:
        self.num_preemptions = 0
        self.num_preempted_blocks = 0
        self.num_preempted_tokens = 0
        self._pool = pool
        self._prefixes = prefixes
        self._waiting = waiting
        self._running = running
        self._copies = CopyOnWrite(pool)

    def cover(self, request: Request, num_tokens: int) -> bool:
        """Give a running request blocks for `num_tokens`; False if it lost its place itself."""
        num_missing = self._pool.num_blocks_for(num_tokens) - len(request.block_ids)
        if num_missing <= 0 and not self._copies.num_needed(request):
            return True
        while (num_taken := num_missing + self._copies.num_needed(request)) > (
            self._pool.num_available
        ):
            victim = self._running[-1].owner
            available = self._pool.num_available
            self.give_way(
                victim, f"{request.request_id} needs {num_taken} blocks, {available} are available"
            )
            if victim is request.owner:
                return False
        if self._copies.num_needed(request):
            self._copies.detach(request)
        if num_missing > 0:
            request.block_ids += self._pool.allocate(num_missing, request.priority)
        return True

    def cover_guesses(self, request: Request, num_tokens: int, num_guesses: int) -> int:
        """Return for how many guesses after `num_tokens` there are blocks now.

        Nobody gives way to a guess.
        """
        num_missing = self._pool.num_blocks_for(num_tokens + num_guesses) - len(request.block_ids)
        num_missing = min(num_missing, self._pool.num_available)
        if num_missing > 0:
            request.block_ids += self._pool.allocate(num_missing, request.priority)
        return min(num_guesses, len(request.block_ids) * self._pool.block_size - num_tokens)

    def release(self, request: Request) -> None:
        """Let go of everything that a request, or its group of beams, holds."""
        self._prefixes.drop(request)
        if request.beams is not None:
            request.beams.restart(self._pool, self._running)
        self._pool.release(request.block_ids)
        request.block_ids = []

    @property
    def has_copies(self) -> bool:
        """Return whether blocks are to be copied before anybody writes."""
        return self._copies.is_pending

    def take_copies(self) -> list[tuple[int, int]]:
        """Return the blocks (from, to) to copy before anybody writes; see `CopyOnWrite`."""
        return self._copies.take()

    def reset(self, waiting: WaitingQueue, running: RequestQueue) -> None:
        """Begin anew with these queues; the counters stay."""
        self._waiting = waiting
        self._running = running
        self._copies = CopyOnWrite(self._pool)

    def give_way(self, victim: Request, reason: str) -> None:
        """Take everything from a running request; it waits again and computes again later."""
        num_blocks = sum(len(sequence.block_ids) for sequence in victim.sequences)
        num_tokens = sum(sequence.num_computed_tokens for sequence in victim.sequences)
        self.num_preemptions += 1
        self.num_preempted_blocks += num_blocks
        self.num_preempted_tokens += num_tokens
        victim.num_preemptions += 1
        logger.warning(
            "preempted %s (priority %d, time %d): %s; it held %d blocks with %d computed tokens",
            victim.request_id,
            victim.priority,
            victim.num_preemptions,
            reason,
            num_blocks,
            num_tokens,
        )
        self.release(victim)
        victim.num_computed_tokens = 0
        victim.status = RequestStatus.WAITING
        self._running.remove(victim)
        self._waiting.add(victim)
