"""Token budget of a step (chunked prefill): what it may compute of prompts beside its decodes.

In tokens, of which a step computes less after one found too little memory; and in seconds, so that
prompts do not hold up the streams that decode.
"""

import math
from collections.abc import Sequence

from services.generator.engine.chunk import Chunk, num_pairs
from services.generator.engine.scheduling.queues import RunningQueue
from services.generator.engine.scheduling.step_time import StepTime, StepTimeModel

# prompts always get so much of a step, however slow it is, so that they end
MIN_PROMPT_TOKENS = 8
# a share of the budget this many times larger than any before is the furthest to extrapolate
_GROWTH = 2
# so many good steps let the token limit double
_GOOD_STEPS = 256


class StepBudget:
    """Prompt chunks take from it in order; decodes were counted before."""

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


class TokenLimit:
    """Between `least` and `most` tokens; the memory of a step grows with them."""

    def __init__(self, least: int, most: int) -> None:
        self.num_tokens = most
        self._least = least
        self._most = most
        self._num_good_steps = 0

    def lower(self) -> None:
        """Halve it, after a step for which there was no memory."""
        self.num_tokens = max(self._least, self.num_tokens // 2)
        self._num_good_steps = 0

    def observe_step(self) -> None:
        """Count a step that was computed."""
        if self.num_tokens == self._most:
            return
        self._num_good_steps += 1
        if self._num_good_steps == _GOOD_STEPS:
            self.num_tokens = min(self._most, 2 * self.num_tokens)
            self._num_good_steps = 0

    def __repr__(self) -> str:
        return f"TokenLimit({self.num_tokens} of {self._most})"


class StepLimits:
    """Makes the budget of each step, from what steps have taken so far.

    `target_step_s` is how long a step may take while streams decode; 0 sets no limit, None lets it
    take twice what the decodes alone would, and more only while more prompts than streams wait.
    """

    def __init__(self, least: int, most: int, target_step_s: float | None) -> None:
        self.tokens = TokenLimit(least, most)
        self._target_step_s = target_step_s
        self._times = StepTimeModel()

    def budget(self, running: RunningQueue, num_waiting: int, *, speculates: bool) -> StepBudget:
        """Keep one token for each decode; what is left is for prompts, within the time's target."""
        decodes = [r for r in running if r.num_uncomputed_tokens == 1 and not r.has_all_tokens]
        budget = StepBudget(self.tokens.num_tokens - len(decodes))
        num_prompts = len(running) + num_waiting - len(decodes)
        if self._target_step_s != 0.0 and decodes and (num_prompts or speculates):
            time = self._times.fit()
            decode_s = time.predict(len(decodes), sum(r.num_tokens for r in decodes))
            if self._target_step_s is None:
                left_s = decode_s * max(1.0, num_prompts / len(decodes))
            else:
                left_s = self._target_step_s - decode_s
            budget.limit_time(left_s, time, self._times.max_prompt_tokens)
        return budget

    def observe_step(self, chunks: Sequence[Chunk], step_s: float) -> None:
        """Learn how long a step of these chunks took."""
        self.tokens.observe_step()
        self._times.observe(chunks, step_s)

    def __repr__(self) -> str:
        return f"StepLimits({self.tokens!r}, {self._times!r})"
