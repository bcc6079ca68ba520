"""Who goes first among those that wait: the class, then fairness between tenants, then arrival.

Pure: the state is a value that its owner keeps. Inside a class tenants take turns by deficit round
robin (Shreedhar and Varghese, 1995), in closed form: with a quantum per round, a tenant that has
spent `s` reaches an item behind `c` of its own cost in round `ceil((s + c) / quantum)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

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


@dataclass(frozen=True, slots=True)
class Turns:
    """The round of each class, and what each of its waiting tenants has spent since round 0."""

    rounds: Mapping[int, int] = field(default_factory=dict)
    spent: Mapping[tuple[int, str], int] = field(default_factory=dict)


def order(
    waiting: Iterable[T], place: Callable[[T], Place], turns: Turns, quantum: int = QUANTUM
) -> list[T]:
    """Return everything that waits, first to go first; one tenant alone goes by arrival."""
    spent: dict[tuple[int, str], int] = {}
    keyed: list[tuple[int, int, float, int]] = []
    items = list(waiting)
    places = [place(item) for item in items]
    for index in sorted(range(len(items)), key=lambda i: places[i].arrival):
        priority, tenant, arrival, cost = places[index]
        key = priority, tenant
        spent[key] = spent.get(key, _spent(turns, key, quantum)) + cost
        keyed.append((priority, -(-spent[key] // quantum), arrival, index))
    return [items[index] for *_, index in sorted(keyed)]


def taken(
    item: Place, still_waiting: Iterable[Place], turns: Turns, quantum: int = QUANTUM
) -> Turns:
    """Return the turns after `item` went; a tenant with nothing left to wait for saves nothing."""
    key = item.priority, item.tenant
    paid = _spent(turns, key, quantum) + item.cost
    active = {(place.priority, place.tenant) for place in still_waiting}
    classes = {priority for priority, _ in active}
    now = max(turns.rounds.get(item.priority, 0), -(-paid // quantum))
    rounds = {**turns.rounds, item.priority: now}
    after = {**turns.spent, key: paid}
    # who waits already keeps its turn, though the round moves on
    after |= {k: _spent(turns, k, quantum) for k in active if k not in after}
    return Turns(
        {priority: n for priority, n in rounds.items() if priority in classes},
        {k: value for k, value in after.items() if k in active},
    )


def _spent(turns: Turns, key: tuple[int, str], quantum: int) -> int:
    return turns.spent.get(key, turns.rounds.get(key[0], 0) * quantum)
