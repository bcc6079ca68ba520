"""Fair queueing: the priority class first, then fairness between tenants, then arrival.

Inside a class tenants take turns by deficit round robin (Shreedhar and Varghese, 1995), in closed
form: with a quantum per round, a tenant that has spent `s` reaches an item behind `c` of its own
cost in round `ceil((s + c) / quantum)`.
"""

import heapq
import itertools
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, TypeVar

QUANTUM = 512

T = TypeVar("T")


class Ticket(NamedTuple):
    """A waiting item as the queue orders it. A lower priority class goes first.

    `cost` is in any unit of work, in tokens say, and constant while it waits.
    """

    priority: int
    tenant: str
    arrival: float
    cost: int


class _Entry(NamedTuple, Generic[T]):
    """An item in its tenant's queue; `number` tells apart those that arrived together."""

    arrival: float
    number: int
    cost: int
    item: T


class _TenantQueue(Generic[T]):
    """The items of one tenant in one class, by arrival, and what it has spent since round 0."""

    def __init__(self, spent: int) -> None:
        self.spent = spent
        self.entries: list[_Entry[T]] = []

    def pop(self, item: T, arrival: float) -> _Entry[T]:
        """Take out an item that is in the queue."""
        index = bisect_left(self.entries, arrival, key=lambda entry: entry.arrival)
        while self.entries[index].item is not item:
            index += 1
        return self.entries.pop(index)


class _Head(NamedTuple):
    """The first entry of a tenant's queue as it compares with those of the others."""

    priority: int
    round: int
    arrival: float
    number: int
    tenant: str


class FairQueue(Generic[T]):
    """A deficit-round-robin queue; one tenant alone goes by arrival.

    A change costs some bisections. A tenant with nothing left to wait for saves nothing.
    """

    def __init__(self, ticket: Callable[[T], Ticket], quantum: int = QUANTUM) -> None:
        self._ticket = ticket
        self._quantum = quantum
        self._num_items = 0
        self._numbers = itertools.count()
        self._rounds: dict[int, int] = {}
        self._queues: dict[tuple[int, str], _TenantQueue[T]] = {}
        self._heads: list[_Head] = []  # one per tenant and class, sorted

    def __len__(self) -> int:
        return self._num_items

    def __iter__(self) -> Iterator[T]:
        """Yield the items, first to go first; each may go as soon as it was yielded."""
        heap = list(self._heads)
        left: dict[tuple[int, str], tuple[int, deque[_Entry[T]]]] = {}
        while heap:
            key = heap[0].priority, heap[0].tenant
            if key not in left:
                left[key] = self._queues[key].spent, deque(self._queues[key].entries)
            spent, entries = left[key]
            entry = entries.popleft()
            left[key] = spent + entry.cost, entries
            if entries:
                heapq.heapreplace(heap, self._head(key, spent + entry.cost, entries[0]))
            else:
                heapq.heappop(heap)
            yield entry.item

    def add(self, item: T) -> None:
        """Let an item wait; its ticket must not change until it leaves."""
        priority, tenant, arrival, cost = self._ticket(item)
        key = priority, tenant
        if key in self._queues:
            queue = self._without_head(key)
        else:
            queue = self._queues[key] = _TenantQueue(self._rounds.get(priority, 0) * self._quantum)
        insort(queue.entries, _Entry(arrival, next(self._numbers), cost, item))
        insort(self._heads, self._head(key, queue.spent, queue.entries[0]))
        self._num_items += 1

    def remove(self, item: T) -> None:
        """Take out an item that leaves without its turn."""
        self._pop(item, has_its_turn=False)

    def take(self, item: T) -> None:
        """Take out an item whose turn it is, first or not: its tenant pays."""
        self._pop(item, has_its_turn=True)

    def _pop(self, item: T, *, has_its_turn: bool) -> None:
        priority, tenant, arrival, _ = self._ticket(item)
        key = priority, tenant
        queue = self._without_head(key)
        entry = queue.pop(item, arrival)
        if has_its_turn:
            queue.spent += entry.cost
            now = -(-queue.spent // self._quantum)
            self._rounds[priority] = max(self._rounds.get(priority, 0), now)
        if queue.entries:
            insort(self._heads, self._head(key, queue.spent, queue.entries[0]))
        else:
            del self._queues[key]
            if not any(priority == other for other, _ in self._queues):
                self._rounds.pop(priority, None)
        self._num_items -= 1

    def _without_head(self, key: tuple[int, str]) -> _TenantQueue[T]:
        """Return a tenant's queue whose first entry may change now."""
        queue = self._queues[key]
        del self._heads[bisect_left(self._heads, self._head(key, queue.spent, queue.entries[0]))]
        return queue

    def _head(self, key: tuple[int, str], spent: int, entry: _Entry[T]) -> _Head:
        priority, tenant = key
        turn = -(-(spent + entry.cost) // self._quantum)
        return _Head(priority, turn, entry.arrival, entry.number, tenant)

    def __repr__(self) -> str:
        return f"FairQueue({self._num_items} items, {len(self._queues)} tenants)"
