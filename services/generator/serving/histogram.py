"""A histogram that takes many equal values in one go."""

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """Counts values by bucket; a value equal to a bound belongs below it, as Prometheus has it."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        """Count a value that was seen `count` times."""
        self._counts[bisect_left(self._bounds, value)] += count
        self._sum += value * count

    def copy(self) -> "Histogram":
        """Return one that does not follow."""
        copy = Histogram(self._bounds)
        copy._counts, copy._sum = self._counts.copy(), self._sum
        return copy

    @property
    def sum(self) -> float:
        """The sum of all values."""
        return self._sum

    def buckets(self) -> list[tuple[str, float]]:
        """Return each upper bound with the number of values up to it, the last for all."""
        buckets = []
        total = 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            buckets.append(("+Inf" if bound == float("inf") else str(float(bound)), float(total)))
        return buckets

    def __repr__(self) -> str:
        return f"Histogram({sum(self._counts)} values, sum {self._sum:g})"
