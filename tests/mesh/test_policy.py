"""Order by class, fairness between tenants, arrival."""

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.policy import Place, Turns, order, taken

PLACES = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from("abc"), st.integers(1, 40)), max_size=25
).map(lambda rows: [Place(p, t, float(i), c) for i, (p, t, c) in enumerate(rows)])


def drain(waiting: list[Place], quantum: int) -> list[Place]:
    """Take one after another, asking anew each time."""
    turns, gone = Turns(), []
    waiting = list(waiting)
    while waiting:
        first = order(waiting, lambda place: place, turns, quantum)[0]
        waiting.remove(first)
        turns = taken(first, waiting, turns, quantum)
        gone.append(first)
    assert turns == Turns()
    return gone


def test_one_tenant_goes_by_class_then_arrival() -> None:
    """Without a second tenant the costs do not matter."""
    places = [Place(0, "", 2, 900), Place(0, "", 1, 5), Place(-1, "", 3, 5000)]
    assert drain(places, 100) == [places[2], places[1], places[0]]


def test_a_flood_does_not_delay_another_tenant() -> None:
    """One request behind a hundred of another tenant goes among the first."""
    flood = [Place(0, "flood", float(i), 10) for i in range(100)]
    late = Place(0, "late", 100.0, 10)
    assert drain([*flood, late], 10).index(late) == 1


def test_large_requests_take_fewer_turns() -> None:
    """Tenants share the work, not the number of requests."""
    large = [Place(0, "large", float(i), 40) for i in range(5)]
    small = [Place(0, "small", 10.0 + i, 10) for i in range(20)]
    gone = drain([*large, *small], 20)
    by_then = gone[: gone.index(large[3])]
    assert sum(place.tenant == "small" for place in by_then) >= 12


@settings(deadline=None)
@given(PLACES, st.integers(5, 50))
def test_the_order_is_what_taking_one_by_one_gives(places: list[Place], quantum: int) -> None:
    """Nobody is lost, and asking again after each departure does not change the order."""
    assert drain(places, quantum) == order(places, lambda place: place, Turns(), quantum)


@settings(deadline=None)
@given(PLACES, st.integers(5, 50))
def test_waiting_tenants_are_served_alike(places: list[Place], quantum: int) -> None:
    """While two tenants of a class wait, their work differs by a quantum and a request at most."""
    waiting = list(places)
    done: dict[tuple[int, str], int] = {}
    everyone = {(place.priority, place.tenant) for place in places}
    for place in drain(places, quantum):
        waiting.remove(place)
        key = place.priority, place.tenant
        done[key] = done.get(key, 0) + place.cost
        active = {(p.priority, p.tenant) for p in waiting} & everyone
        work = [done.get(k, 0) for k in active if k[0] == place.priority]
        if work:
            assert max(work) - min(work) <= quantum + 40
