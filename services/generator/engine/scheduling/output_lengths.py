"""How many tokens a request will probably generate, learnt from those that ended."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque

# on random traces 0.4 preempts 5-10 times less than greedy admission for 2-7 % more steps in bursts
DEFAULT_OUTPUT_QUANTILE = 0.4
_WINDOW = 1000


class OutputLengths:
    """A quantile of recent output lengths, given what a request has generated already.

    Without history it expects `max_tokens`. Quantile 0 expects nothing beyond the next token,
    which makes admission greedy. The idea is that of the Past-Future scheduler (LightLLM, 2025).
    """

    def __init__(self, quantile: float) -> None:
        self._quantile = quantile
        self._recent: deque[int] = deque()
        self._sorted: list[int] = []

    def observe(self, num_output_tokens: int) -> None:
        """Learn the length of an output that ended by itself."""
        if len(self._recent) == _WINDOW:
            self._sorted.pop(bisect_left(self._sorted, self._recent.popleft()))
        self._recent.append(num_output_tokens)
        insort(self._sorted, num_output_tokens)

    def expected_remaining(self, num_output_tokens: int, max_tokens: int) -> int:
        """Return how many tokens more to expect, from 1 to what `max_tokens` leaves."""
        if self._quantile == 0.0:
            return 1
        first = bisect_right(self._sorted, num_output_tokens)
        num_longer = len(self._sorted) - first
        expected = max_tokens
        if num_longer > 0:
            expected = min(max_tokens, self._sorted[first + self._index(num_longer)])
        return max(1, expected - num_output_tokens)

    def _index(self, count: int) -> int:
        return min(count - 1, int(self._quantile * count))

    def __repr__(self) -> str:
        return f"OutputLengths({len(self._recent)} lengths, quantile {self._quantile})"
