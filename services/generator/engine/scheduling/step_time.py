"""Step time model: how long a step takes, learnt from those that ran."""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from services.generator.engine.chunk import Chunk

_KEPT = 0.98


class StepTime(NamedTuple):
    """Seconds = base_s + token_s * tokens + pair_s * attended pairs; none is negative.

    A pair is a query and a key that it attends to. One price for all fits decodes and chunks.
    """

    base_s: float
    token_s: float
    pair_s: float

    def predict(self, num_tokens: int, num_pairs: int) -> float:
        """Return the seconds that such a step should take."""
        return self.base_s + self.token_s * num_tokens + self.pair_s * num_pairs


class StepTimeModel:
    """Non-negative least squares over decayed sums; recent steps count more.

    Steps with and without prompt chunks are summed apart and each forgets only its own past: hours
    of decoding alone must not make it forget what prompt tokens cost.
    """

    def __init__(self) -> None:
        self._decodes = _Sums()
        self._prompts = _Sums()
        self.max_prompt_tokens = 0

    def observe(self, chunks: Sequence[Chunk], step_s: float) -> None:
        """Learn from one step of these chunks."""
        num_tokens = sum(chunk.num_tokens for chunk in chunks)
        num_prompt_tokens = sum(chunk.num_tokens for chunk in chunks if chunk.num_known > 1)
        num_pairs = sum(chunk.num_pairs for chunk in chunks)
        sums = self._prompts if num_prompt_tokens else self._decodes
        sums.add((1.0, float(num_tokens), float(num_pairs)), step_s)
        self.max_prompt_tokens = max(self.max_prompt_tokens, num_prompt_tokens)

    def fit(self) -> StepTime:
        """Return the coefficients as known now; all zero before the first step."""
        matrix = [
            [self._decodes.matrix[i][j] + self._prompts.matrix[i][j] for j in range(3)]
            for i in range(3)
        ]
        vector = [self._decodes.vector[i] + self._prompts.vector[i] for i in range(3)]
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

    Rows and columns are scaled to a unit diagonal first, because pairs are counted in millions.
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
