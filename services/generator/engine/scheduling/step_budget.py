"""What one step may still compute of prompts: tokens, and seconds if streams wait for it."""

from __future__ import annotations

import math

from services.generator.engine.chunk import num_pairs
from services.generator.engine.scheduling.step_time import StepTime

# prompts always get so much of a step, however slow it is, so that they end
MIN_PROMPT_TOKENS = 8
# a share of the budget this many times larger than any before is the furthest to extrapolate
_GROWTH = 2


class StepBudget:
    """Prompt chunks take from it in order; decodes were counted before it was made."""

    def __init__(self, num_tokens: int) -> None:
        self.num_tokens = num_tokens
        self._left_s: float | None = None
        self._time = StepTime(0.0, 0.0, 0.0)
        self._num_promised = 0

    def limit_time(self, left_s: float, time: StepTime, max_seen_tokens: int) -> None:
        """Also stay within `left_s`, as predicted, and near what the prediction was learnt from."""
        self._left_s, self._time = left_s, time
        self.num_tokens = min(self.num_tokens, max(MIN_PROMPT_TOKENS, _GROWTH * max_seen_tokens))
        self._num_promised = min(self.num_tokens, MIN_PROMPT_TOKENS)

    @property
    def left_s(self) -> float:
        """Seconds that the step may still take; infinite where its time is not limited."""
        return math.inf if self._left_s is None else self._left_s

    def offer(self, start: int, num_wanted: int) -> int:
        """Return how many of the wanted tokens, beginning at position `start`, may be computed."""
        num_tokens = min(num_wanted, self.num_tokens)
        if self._left_s is None or num_tokens == 0:
            return num_tokens
        num_timely = self._num_timely(start, num_tokens, self._left_s)
        return min(num_tokens, max(num_timely, self._num_promised))

    def take(self, start: int, num_tokens: int) -> None:
        """Spend what was offered here, or in a budget made before with the same prompts."""
        self.num_tokens = max(0, self.num_tokens - num_tokens)
        self._num_promised = max(0, self._num_promised - num_tokens)
        if self._left_s is not None:
            self._left_s -= self._time.predict(num_tokens, num_pairs(start, num_tokens))
            self._left_s += self._time.base_s

    def _num_timely(self, start: int, num_wanted: int, left_s: float) -> int:
        """Return how many of the wanted tokens take at most `left_s`, as predicted."""
        pair_s = self._time.pair_s
        # n tokens take first_s * n + pair_s * n**2 / 2
        first_s = self._time.token_s + pair_s * (start + 0.5)
        if first_s * num_wanted + pair_s * num_wanted**2 / 2 <= left_s:
            return num_wanted
        if left_s <= 0.0:
            return 0
        return int(2 * left_s / (first_s + math.sqrt(first_s**2 + 2 * pair_s * left_s)))
