"""Puts the numbered frames of one replica in order and says which are missing. Pure state."""

from dataclasses import dataclass
from typing import Generic, TypeVar

# frames that arrived ahead of a missing one; beyond it the missing one is given up
MAX_HELD = 1024

F = TypeVar("F")


@dataclass(frozen=True, slots=True)
class Arrival(Generic[F]):
    """What an arrival leads to: frames to handle now, in order, and numbers to ask for.

    `broken` says that frames are gone for good: every sequence of this replica has a hole.
    """

    ready: tuple[F, ...] = ()
    missing: tuple[int, int] | None = None
    broken: bool = False


class FrameOrder(Generic[F]):
    """The order of one replica's frames to this gateway; numbers start at 1."""

    def __init__(self) -> None:
        self._next = 1
        self._held: dict[int, F] = {}
        self._asked_to = 0

    def __repr__(self) -> str:
        return f"FrameOrder(next={self._next}, held={len(self._held)})"

    def accept(self, number: int, frame: F, oldest: int) -> Arrival[F]:
        """Take a frame; `oldest` is the first number that the replica can still send again."""
        if number < self._next:
            return Arrival()
        self._held[number] = frame
        ready = []
        while self._next in self._held:
            ready.append(self._held.pop(self._next))
            self._next += 1
        return self._with_gap(tuple(ready), oldest, max(self._held, default=0) - 1)

    def heartbeat(self, number: int, oldest: int) -> Arrival[F]:
        """Take the number of the replica's last frame; ask again for what was asked for before."""
        self._asked_to = 0
        if number < self._next - 1:
            # the replica forgot this gateway meanwhile and counts anew
            self._next = 1
            self._held.clear()
        return self._with_gap((), oldest, number)

    def _with_gap(self, ready: tuple[F, ...], oldest: int, last: int) -> Arrival[F]:
        if last < self._next:
            return Arrival(ready)
        if oldest > self._next or len(self._held) > MAX_HELD:
            # start anew after the hole: sequences placed from now on are whole again
            self._next = max(last, *self._held, 0) + 1 if self._held else last + 1
            self._held.clear()
            return Arrival(ready, broken=True)
        first_held = min(self._held, default=last + 1)
        missing = (self._next, min(first_held - 1, last))
        if missing[1] <= self._asked_to:
            return Arrival(ready)
        self._asked_to = missing[1]
        return Arrival(ready, missing=missing)
