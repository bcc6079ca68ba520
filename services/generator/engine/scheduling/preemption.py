"""Preemption: blocks for the requests that go first, from those that go last."""

import logging

from services.generator.engine.kv.allocator import BlockAllocator
from services.generator.engine.request import Request
from services.generator.engine.scheduling.queues import RequestQueues

logger = logging.getLogger(__name__)


class Preemption:
    """Takes all blocks from a running request, which waits and is computed again later."""

    def __init__(self, blocks: BlockAllocator, queues: RequestQueues) -> None:
        self.num_preemptions = 0
        self.num_preempted_blocks = 0
        self.num_preempted_tokens = 0
        self._blocks = blocks
        self._queues = queues

    def make_room(self, request: Request, num_tokens: int) -> bool:
        """Preempt from the end until `request` has its blocks; False if it was preempted itself."""
        while not self._blocks.ensure(request, num_tokens):
            victim = self._queues.running[-1].owner
            num_missing = self._blocks.num_missing(request, num_tokens)
            reason = f"needs {num_missing} blocks, {self._blocks.num_available} are available"
            self.preempt(victim, f"{request.request_id} {reason}")
            if victim is request.owner:
                return False
        return True

    def preempt(self, victim: Request, reason: str) -> None:
        """Take everything from a running request, or from its whole group of beams."""
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
        self._blocks.release(victim)
        victim.num_computed_tokens = 0
        self._queues.preempt(victim)

    def __repr__(self) -> str:
        return f"Preemption({self.num_preemptions} so far)"
