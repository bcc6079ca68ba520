"""Cost of a draft: what one more row adds to the time of a decode step, learnt from past ones."""

_KEPT = 0.98
# while all steps had as many rows: a row's share of what a step takes for each of its rows
_GUESS = 0.25
# how much that guess counts: as steps would whose rows differed by one in all
_GUESS_WEIGHT = 1.0


class RowTime:
    """A straight line through seconds over rows; recent steps count more.

    Steps of one size do not show how their time divides, and what is known is forgotten with them;
    the line then returns to a guess low enough to be put to the test.
    """

    def __init__(self) -> None:
        self._weight = 0.0
        self._rows = 0.0
        self._seconds = 0.0
        self._rows_rows = 0.0
        self._rows_seconds = 0.0

    def observe(self, num_rows: int, step_s: float) -> None:
        """Learn from one step without prompts."""
        self._weight = _KEPT * self._weight + 1.0
        self._rows = _KEPT * self._rows + num_rows
        self._seconds = _KEPT * self._seconds + step_s
        self._rows_rows = _KEPT * self._rows_rows + num_rows * num_rows
        self._rows_seconds = _KEPT * self._rows_seconds + num_rows * step_s

    def row_s(self) -> float:
        """Return the seconds of one more row; 0 before the first step."""
        if not self._weight:
            return 0.0
        guess = _GUESS * self._seconds / self._rows
        spread = self._rows_rows - self._rows * self._rows / self._weight
        slope = self._rows_seconds - self._rows * self._seconds / self._weight
        return max(0.0, (slope + _GUESS_WEIGHT * guess) / (spread + _GUESS_WEIGHT))

    def step_s(self, num_rows: int) -> float:
        """Return the seconds of a step with so many rows; 0 before the first step."""
        if not self._weight:
            return 0.0
        mean = self._seconds / self._weight
        return max(0.0, mean + self.row_s() * (num_rows - self._rows / self._weight))

    def __repr__(self) -> str:
        return f"RowTime({self.step_s(1):.6f} s, {self.row_s():.6f} s for each row more)"
