"""How much may wait, and how long what waits will take to leave the queue."""

from __future__ import annotations

from collections.abc import Sequence

from services.generator.engine.errors import QueueFullError
from services.generator.engine.request import Request
from services.generator.engine.scheduling.drain_rate import DrainRate
from services.generator.engine.scheduling.waiting_queue import WaitingQueue


class QueueLimits:
    """Refuses what an already waiting queue has no room for, with the wait that it may expect."""

    def __init__(self, max_requests: int | None, max_tokens: int | None) -> None:
        self.drain_rate = DrainRate()
        self.num_refusals = 0
        self._max_requests = max_requests
        self._max_tokens = max_tokens
        self._backlog_since_s: float | None = None

    def admit(self, requests: Sequence[Request], waiting: WaitingQueue) -> None:
        """Raise QueueFullError where a limit would be passed.

        An empty queue takes a prompt of any length, as often as it likes.
        """
        if not waiting:
            return
        num_tokens = sum(r.num_prompt_tokens for r in requests) + waiting.num_prompt_tokens
        limits = (
            ("max_queued_requests", self._max_requests, len(waiting) + len(requests)),
            ("max_queued_tokens", self._max_tokens, num_tokens),
        )
        for name, limit, count in limits:
            if limit is not None and count > limit:
                self.num_refusals += 1
                raise QueueFullError(name, self.expected_wait_s(waiting))

    def observe(self, num_started_tokens: int, waiting: WaitingQueue, now_s: float) -> None:
        """Learn that prompts of so many tokens left the queue by now.

        Measured over the time in which some request waited for others, not for the next step.
        """
        if self._backlog_since_s is not None:
            self.drain_rate.observe(num_started_tokens, now_s - self._backlog_since_s)
        self._backlog_since_s = now_s if waiting else None

    def expected_wait_s(self, waiting: WaitingQueue) -> float:
        """Return how long the prompts that wait now will take to leave the queue."""
        return self.drain_rate.expected_wait_s(waiting.num_prompt_tokens)

    def reset(self) -> None:
        """Nobody waits any more."""
        self._backlog_since_s = None
