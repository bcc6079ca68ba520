"""Lookahead (asynchronous scheduling): the next step is planned while the current one computes.

The plan counts on each chunk to succeed and to draw one token that ends nothing. When the step
begins, chunks of requests that ended are dropped; admission, deadlines and drafts are decided
then and not before, so that a plan delays no request.
"""

from collections.abc import Sequence

from services.generator.engine.chunk import Chunk
from services.generator.engine.kv.block_pool import BlockPool
from services.generator.engine.request import Request, RequestStatus
from services.generator.engine.scheduling.queues import RunningQueue
from services.generator.engine.scheduling.step_budget import StepBudget


def can_plan_ahead(
    chunks: Sequence[Chunk], running: RunningQueue, pool: BlockPool, num_step_tokens: int
) -> bool:
    """Return whether each chunk leaves its request with at most one token more, and nothing else.

    False too where the planned step, of at most `num_step_tokens`, might have to preempt a request.
    """
    if any(chunk.drafts for chunk in chunks):
        return False
    if any(r.forks or r.beams or r.num_unscored_tokens for r in running):
        return False
    # each may begin a block, and prompts fill what the budget holds
    num_blocks = 2 * len(running) + num_step_tokens // pool.block_size
    return pool.num_available >= num_blocks


class Lookahead:
    """Owns the planned chunks from the step that planned them to the one that computes them."""

    def __init__(self) -> None:
        self._chunks: list[Chunk] | None = None

    def assume_computed(self, chunks: Sequence[Chunk]) -> None:
        """Count the chunks that are being computed as done, with a token drawn where one is."""
        for chunk in chunks:
            chunk.request.num_computed_tokens = chunk.end
            chunk.request.num_lookahead_tokens = int(chunk.samples)

    def keep(self, planned: list[Chunk]) -> None:
        """Keep the chunks that follow those assumed to be computed."""
        self._chunks = planned

    def settle(self, chunks: Sequence[Chunk]) -> None:
        """Stop counting on the tokens of chunks whose results are known now."""
        for chunk in chunks:
            chunk.request.num_lookahead_tokens = 0

    def take(self, budget: StepBudget) -> list[Chunk] | None:
        """Return the planned chunks of requests that still run; None if nothing was planned."""
        planned, self._chunks = self._chunks, None
        if planned is None:
            return None
        chunks = [c for c in planned if c.request.status is RequestStatus.RUNNING]
        for chunk in chunks:
            if chunk.num_tokens > 1:
                budget.take(chunk.start, chunk.num_tokens)
        return chunks

    def clear(self) -> None:
        """Forget the plan."""
        self._chunks = None

    def ends(self) -> dict[Request, int]:
        """Return how many computed tokens the planned chunks give their requests."""
        return {chunk.request: chunk.end for chunk in self._chunks or ()}

    def __repr__(self) -> str:
        return f"Lookahead({'no plan' if self._chunks is None else len(self._chunks)})"
