"""Order by class, fairness between tenants, arrival."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mesh.policy import Line, Place

PLACES = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from("abc"), st.integers(1, 40)), max_size=25
).map(lambda rows: [Place(p, t, float(i), c) for i, (p, t, c) in enumerate(rows)])


def line(places: list[Place], quantum: int) -> Line[Place]:
    made = Line[Place](lambda place: place, quantum)
    for place in places:
        made.add(place)
    return made


def drain(places: list[Place], quantum: int) -> list[Place]:
    """Take one after another, asking anew each time."""
    waiting, gone = line(places, quantum), []
    while waiting:
        first = next(iter(waiting))
        waiting.take(first)
        gone.append(first)
    assert list(waiting) == []
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


def test_leaving_and_coming_back_saves_nothing() -> None:
    """A tenant that has nothing left to wait for takes its next turn with the others."""
    waiting = line([Place(0, "busy", float(i), 10) for i in range(9)], 10)
    gone = Place(0, "guest", 0.5, 10)
    waiting.add(gone)
    for _ in range(6):
        waiting.take(next(iter(waiting)))
    waiting.add(Place(0, "guest", 20.0, 10))
    assert [place.tenant for place in waiting] == ["busy", "guest", "busy", "busy", "busy"]


@settings(deadline=None)
@given(PLACES, st.integers(5, 50))
def test_the_order_is_what_taking_one_by_one_gives(places: list[Place], quantum: int) -> None:
    """Nobody is lost, and asking again after each departure does not change the order."""
    assert drain(places, quantum) == list(line(places, quantum))


@settings(deadline=None)
@given(PLACES, st.integers(5, 50))
def test_waiting_tenants_are_served_alike(places: list[Place], quantum: int) -> None:
    """While two tenants of a class wait, their work differs by a quantum and a request at most."""
    waiting = list(places)
    done: dict[tuple[int, str], int] = {}
    for place in drain(places, quantum):
        waiting.remove(place)
        key = place.priority, place.tenant
        done[key] = done.get(key, 0) + place.cost
        active = {(p.priority, p.tenant) for p in waiting}
        work = [done.get(k, 0) for k in active if k[0] == place.priority]
        if work:
            assert max(work) - min(work) <= quantum + 40


class Histories(RuleBasedStateMachine):
    """Random lives of a line, against an account that sorts everything each time it is asked."""

    @initialize(quantum=st.integers(5, 50))
    def begin(self, quantum: int) -> None:
        self.quantum = quantum
        self.line = line([], quantum)
        self.waiting: list[Place] = []
        self.rounds: dict[int, int] = {}
        self.spent: dict[tuple[int, str], int] = {}

    @rule(
        rows=st.lists(
            st.tuples(
                st.integers(-1, 1), st.sampled_from("abcd"), st.integers(0, 9), st.integers(0, 40)
            ),
            max_size=6,
        )
    )
    def add(self, rows: list[tuple[int, str, int, int]]) -> None:
        for row in rows:
            place = Place(*row)
            started = self.rounds.get(place.priority, 0) * self.quantum
            self.spent.setdefault((place.priority, place.tenant), started)
            self.waiting.append(place)
            self.line.add(place)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), leaves=st.sampled_from(["first", "any", "cancelled"]))
    def leave(self, data: st.DataObject, leaves: str) -> None:
        item = next(iter(self.line))
        if leaves != "first":
            item = data.draw(st.sampled_from(self.waiting))
        (self.line.remove if leaves == "cancelled" else self.line.take)(item)
        self.forget(item, pays=leaves != "cancelled")

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def some_leave_as_they_come(self, data: st.DataObject) -> None:
        seen = []
        before = list(self.line)
        for item in self.line:
            seen.append(item)
            if data.draw(st.booleans()):
                self.line.take(item)
                self.forget(item, pays=True)
        assert seen == before

    def forget(self, item: Place, *, pays: bool) -> None:
        self.waiting = [other for other in self.waiting if other is not item]
        key = item.priority, item.tenant
        if pays:
            self.spent[key] += item.cost
            now = -(-self.spent[key] // self.quantum)
            self.rounds[item.priority] = max(self.rounds.get(item.priority, 0), now)
        active = {(place.priority, place.tenant) for place in self.waiting}
        self.spent = {k: spent for k, spent in self.spent.items() if k in active}
        classes = {priority for priority, _ in active}
        self.rounds = {priority: n for priority, n in self.rounds.items() if priority in classes}

    @invariant()
    def order_is_the_accounts(self) -> None:
        if not hasattr(self, "line"):
            return
        spent = dict(self.spent)
        keyed = []
        for index, place in sorted(enumerate(self.waiting), key=lambda entry: entry[1].arrival):
            key = place.priority, place.tenant
            spent[key] += place.cost
            turn = -(-spent[key] // self.quantum)
            keyed.append((place.priority, turn, place.arrival, index, place))
        expected = [place for *_, place in sorted(keyed)]
        assert len(self.line) == len(expected)
        assert all(a is b for a, b in zip(self.line, expected, strict=True))


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)
