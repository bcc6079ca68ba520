"""Stop strings in a text that comes in portions; knows nothing of tokens."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple


class Scanned(NamedTuple):
    """Text that may go out, and the stop string that ended it, if one was found."""

    text: str
    stop: str | None = None


class StopFinder:
    """Finds the stop string that ends first; of those that end together, the longest.

    The result does not depend on the portions. Unless stop strings are included in the text, what
    may be the beginning of one is held back. One that ends among the `num_early` first characters
    of a portion is passed over: it stays in the text, and may overlap with one that counts. One
    Knuth-Morris-Pratt automaton per stop string: a character costs the same however long they are.
    """

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        assert all(stops), "empty stop string. This is a bug."
        # longest first: the first automaton that accepts a character is the one to take
        self._automata = [_Automaton(stop) for stop in sorted(set(stops), key=len, reverse=True)]
        self._initials = frozenset(stop[0] for stop in stops)
        self._include = include
        self._reached = 0
        self._held = ""

    def feed(self, text: str, num_early: int = 0) -> Scanned:
        """Take the next portion; after a stop string was found there must be no more."""
        if not self._reached and self._initials.isdisjoint(text):
            return Scanned(text)
        whole = self._held + text
        num_early += len(self._held)
        for end, char in enumerate(text, len(self._held) + 1):
            matches = [a.stop for a in self._automata if a.step(char)]
            if matches and end > num_early:
                return Scanned(whole[: end if self._include else end - len(matches[0])], matches[0])
        self._reached = max(automaton.reached for automaton in self._automata)
        border = len(whole) if self._include else len(whole) - self._reached
        self._held = whole[border:]
        return Scanned(whole[:border])

    def flush(self) -> str:
        """Return what was held back, when the text ends without a stop string."""
        held, self._held = self._held, ""
        return held


class _Automaton:
    """`reached` characters of the stop string, but not all, are the end of the text so far."""

    __slots__ = ("_fallbacks", "reached", "stop")

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.reached = 0
        self._fallbacks = _fallbacks(stop)

    def step(self, char: str) -> bool:
        """Return whether this character completes the stop string."""
        reached = _advance(self.stop, self._fallbacks, self.reached, char)
        is_complete = reached == len(self.stop)
        self.reached = self._fallbacks[-1] if is_complete else reached
        return is_complete


def _advance(stop: str, fallbacks: Sequence[int], reached: int, char: str) -> int:
    while reached and stop[reached] != char:
        reached = fallbacks[reached - 1]
    return reached + (stop[reached] == char)


@lru_cache(maxsize=1024)
def _fallbacks(stop: str) -> tuple[int, ...]:
    """For each prefix, the length of its longest proper prefix that is also its end."""
    lengths = [0]
    for char in stop[1:]:
        lengths.append(_advance(stop, lengths, lengths[-1], char))
    return tuple(lengths)
