"""Limits of the waiting queue, and how long what waits will take to leave it (backpressure)."""

from collections.abc import Sequence

from services.generator.engine.errors import QueueFullError
from services.generator.engine.request import Request
from services.generator.engine.scheduling.queues import WaitingQueue

_HALF_LIFE_S = 10.0
_UNKNOWN_WAIT_S = 1.0
_MAX_WAIT_S = 600.0


class DrainRate:
    """Tokens per second, exponentially weighted over time with a half-life of ten seconds."""

    def __init__(self) -> None:
        self._num_tokens = 0.0
        self._elapsed_s = 0.0

    def observe(self, num_tokens: int, elapsed_s: float) -> None:
        """Count prompt tokens that left a queue which had others in it for so long."""
        kept = 0.5 ** (elapsed_s / _HALF_LIFE_S)
        self._num_tokens = self._num_tokens * kept + num_tokens
        self._elapsed_s = self._elapsed_s * kept + elapsed_s

    @property
    def tokens_per_s(self) -> float:
        """0 while nothing is known."""
        return self._num_tokens / self._elapsed_s if self._elapsed_s > 0.0 else 0.0

    def expected_wait_s(self, num_tokens: int) -> float:
        """Return how long so many tokens take to leave: 1 s if nothing is known, 600 s at most."""
        if self._elapsed_s == 0.0:
            return _UNKNOWN_WAIT_S
        return num_tokens / max(self.tokens_per_s, num_tokens / _MAX_WAIT_S, 1e-9)

    def __repr__(self) -> str:
        return f"DrainRate({self.tokens_per_s:.1f} tokens/s)"


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
        """Forget the backlog: no request waits any more."""
        self._backlog_since_s = None
