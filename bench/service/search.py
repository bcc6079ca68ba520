"""The largest rate that still meets its limits, by doubling and bisection."""

from collections.abc import Callable


def largest(meets: Callable[[float], bool], start: float, ratio: float, max_tries: int) -> float:
    """Return the largest value that was tried and met; 0 where none was.

    Doubles (or halves) from `start` until a value that meets lies below one that does not, then
    takes the middle between the two until their ratio is below `ratio` or `max_tries` are done.
    """
    low, high = 0.0, 0.0
    value = start
    for _ in range(max_tries):
        if meets(value):
            low = value
        else:
            high = value
        if low and high and high / low < ratio:
            break
        if not high:
            value = low * 2
        elif not low:
            value = high / 2
        else:
            value = (low + high) / 2
    return low
