"""How long a step takes, learnt from those that ran."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

_KEPT = 0.98


class StepTime(NamedTuple):
    """Seconds = base_s + token_s * tokens + context_s * context tokens read; none is negative."""

    base_s: float
    token_s: float
    context_s: float

    def predict(self, num_tokens: int, num_context_tokens: int) -> float:
        """Return the seconds that such a step should take."""
        return self.base_s + self.token_s * num_tokens + self.context_s * num_context_tokens


class StepTimeModel:
    """Non-negative least squares over decayed sums; recent steps count more.

    Steps with and without prompt chunks are summed apart and each forgets only its own past: hours
    of decoding alone must not make it forget what prompt tokens cost. What a chunk reads of its
    context is `Chunk.num_context_tokens`.
    """

    def __init__(self) -> None:
        self._decodes = _Sums()
        self._prompts = _Sums()
        self.max_prompt_tokens = 0

    def observe(
        self, num_tokens: int, num_context_tokens: int, num_prompt_tokens: int, step_s: float
    ) -> None:
        """Learn from one step, of whose tokens so many belonged to prompts."""
        sums = self._prompts if num_prompt_tokens else self._decodes
        sums.add((1.0, float(num_tokens), float(num_context_tokens)), step_s)
        self.max_prompt_tokens = max(self.max_prompt_tokens, num_prompt_tokens)

    def fit(self) -> StepTime:
        """Return the coefficients as known now; all zero before the first step."""
        return self._fit(1.0)

    def fit_decodes(self) -> StepTime:
        """Return the coefficients for steps without prompts, whose tokens may cost more.

        Prompts count as much as one decode more or less in one step would: they settle how the time
        divides as long as all decoding steps were of one size, or that is long ago.
        """
        squares = self._prompts.matrix[1][1]
        return self._fit(1.0 / squares if squares else 0.0)

    def _fit(self, prompt_weight: float) -> StepTime:
        decodes, prompts = self._decodes, self._prompts
        matrix = [
            [decodes.matrix[i][j] + prompt_weight * prompts.matrix[i][j] for j in range(3)]
            for i in range(3)
        ]
        vector = [decodes.vector[i] + prompt_weight * prompts.vector[i] for i in range(3)]
        return StepTime(*_non_negative(matrix, vector))

    def __repr__(self) -> str:
        return f"StepTimeModel({self.fit()}, prompts of {self.max_prompt_tokens} tokens seen)"


class _Sums:
    """Normal equations of observations that are forgotten exponentially."""

    def __init__(self) -> None:
        self.matrix = [[0.0] * 3 for _ in range(3)]
        self.vector = [0.0] * 3

    def add(self, row: Sequence[float], value: float) -> None:
        for i, left in enumerate(row):
            self.vector[i] = _KEPT * self.vector[i] + left * value
            for j, right in enumerate(row):
                self.matrix[i][j] = _KEPT * self.matrix[i][j] + left * right


def _non_negative(matrix: list[list[float]], vector: list[float]) -> list[float]:
    """Return the best x >= 0 of x'Mx - 2v'x: the best feasible solution over all subsets."""
    best, best_cost = [0.0] * 3, 0.0
    for size in range(1, 4):
        for chosen in combinations(range(3), size):
            x = _solve(matrix, vector, chosen)
            cost = sum(
                x[i] * (sum(matrix[i][j] * x[j] for j in range(3)) - 2 * vector[i])
                for i in range(3)
            )
            if min(x) >= 0.0 and cost < best_cost:
                best, best_cost = x, cost
    return best


def _solve(matrix: list[list[float]], vector: list[float], chosen: Sequence[int]) -> list[float]:
    """Solve for the chosen unknowns, the others 0; a vanishing ridge settles what data leave open.

    Rows and columns are scaled to a unit diagonal first, because contexts are counted in millions.
    """
    scale = {i: matrix[i][i] ** 0.5 or 1.0 for i in chosen}
    rows = [
        [matrix[i][j] / (scale[i] * scale[j]) + 1e-9 * (i == j) for j in chosen]
        + [vector[i] / scale[i]]
        for i in chosen
    ]
    count = len(rows)
    for i in range(count):
        for j in range(i + 1, count):
            factor = rows[j][i] / rows[i][i]
            rows[j] = [a - factor * b for a, b in zip(rows[j], rows[i], strict=True)]
    solved = [0.0] * count
    for i in reversed(range(count)):
        known = sum(rows[i][j] * solved[j] for j in range(i + 1, count))
        solved[i] = (rows[i][-1] - known) / rows[i][i]
    x = [0.0] * 3
    for i, value in zip(chosen, solved, strict=True):
        x[i] = value / scale[i]
    return x
