"""Who goes first among those that wait: the class, then fairness between tenants, then arrival.

Inside a class tenants take turns by deficit round robin (Shreedhar and Varghese, 1995), in closed
form: with a quantum per round, a tenant that has spent `s` reaches an item behind `c` of its own
cost in round `ceil((s + c) / quantum)`.
"""

from __future__ import annotations

import heapq
import itertools
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, TypeVar

QUANTUM = 512

T = TypeVar("T")


class Place(NamedTuple):
    """What the policy knows of something that waits. A lower class goes first.

    `cost` is in any unit of work, in tokens say, and constant while it waits.
    """

    priority: int
    tenant: str
    arrival: float
    cost: int


class _Entry(NamedTuple, Generic[T]):
    """An item in its tenant's lane; `number` tells apart those that arrived together."""

    arrival: float
    number: int
    cost: int
    item: T


class _Lane(Generic[T]):
    """What waits of one tenant in one class, by arrival, and what it has spent since round 0."""

    def __init__(self, spent: int) -> None:
        self.spent = spent
        self.entries: list[_Entry[T]] = []

    def pop(self, item: T, arrival: float) -> _Entry[T]:
        """Take out an item that is in the lane."""
        index = bisect_left(self.entries, arrival, key=lambda entry: entry.arrival)
        while self.entries[index].item is not item:
            index += 1
        return self.entries.pop(index)


class _Head(NamedTuple):
    """The first entry of a lane as it compares with those of other lanes."""

    priority: int
    round: int
    arrival: float
    number: int
    tenant: str


class Line(Generic[T]):
    """Items that wait, in the policy's order; one tenant alone goes by arrival.

    A change costs some bisections. A tenant with nothing left to wait for saves nothing.
    """

    def __init__(self, place: Callable[[T], Place], quantum: int = QUANTUM) -> None:
        self._place = place
        self._quantum = quantum
        self._num_items = 0
        self._numbers = itertools.count()
        self._rounds: dict[int, int] = {}
        self._lanes: dict[tuple[int, str], _Lane[T]] = {}
        self._heads: list[_Head] = []  # one per lane, sorted

    def __len__(self) -> int:
        return self._num_items

    def __iter__(self) -> Iterator[T]:
        """Yield the items, first to go first; each may go as soon as it was yielded."""
        heap = list(self._heads)
        left: dict[tuple[int, str], tuple[int, deque[_Entry[T]]]] = {}
        while heap:
            key = heap[0].priority, heap[0].tenant
            if key not in left:
                left[key] = self._lanes[key].spent, deque(self._lanes[key].entries)
            spent, entries = left[key]
            entry = entries.popleft()
            left[key] = spent + entry.cost, entries
            if entries:
                heapq.heapreplace(heap, self._head(key, spent + entry.cost, entries[0]))
            else:
                heapq.heappop(heap)
            yield entry.item

    def add(self, item: T) -> None:
        """Let an item wait; its place must not change until it leaves."""
        priority, tenant, arrival, cost = self._place(item)
        key = priority, tenant
        if key in self._lanes:
            lane = self._beheaded(key)
        else:
            lane = self._lanes[key] = _Lane(self._rounds.get(priority, 0) * self._quantum)
        insort(lane.entries, _Entry(arrival, next(self._numbers), cost, item))
        insort(self._heads, self._head(key, lane.spent, lane.entries[0]))
        self._num_items += 1

    def remove(self, item: T) -> None:
        """Take out an item that leaves without its turn."""
        self._pop(item, has_its_turn=False)

    def take(self, item: T) -> None:
        """Take out an item whose turn it is, first or not: its tenant pays."""
        self._pop(item, has_its_turn=True)

    def _pop(self, item: T, *, has_its_turn: bool) -> None:
        priority, tenant, arrival, _ = self._place(item)
        key = priority, tenant
        lane = self._beheaded(key)
        entry = lane.pop(item, arrival)
        if has_its_turn:
            lane.spent += entry.cost
            now = -(-lane.spent // self._quantum)
            self._rounds[priority] = max(self._rounds.get(priority, 0), now)
        if lane.entries:
            insort(self._heads, self._head(key, lane.spent, lane.entries[0]))
        else:
            del self._lanes[key]
            if not any(priority == other for other, _ in self._lanes):
                self._rounds.pop(priority, None)
        self._num_items -= 1

    def _beheaded(self, key: tuple[int, str]) -> _Lane[T]:
        """Return a lane whose first entry may change now."""
        lane = self._lanes[key]
        del self._heads[bisect_left(self._heads, self._head(key, lane.spent, lane.entries[0]))]
        return lane

    def _head(self, key: tuple[int, str], spent: int, entry: _Entry[T]) -> _Head:
        priority, tenant = key
        turn = -(-(spent + entry.cost) // self._quantum)
        return _Head(priority, turn, entry.arrival, entry.number, tenant)

    def __repr__(self) -> str:
        return f"Line({self._num_items} items, {len(self._lanes)} lanes)"
