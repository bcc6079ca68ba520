"""Fair queueing: order by class, fairness between tenants, arrival."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mesh.fair_queue import FairQueue, Ticket

TICKETS = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from("abc"), st.integers(1, 40)), max_size=25
).map(lambda rows: [Ticket(p, t, float(i), c) for i, (p, t, c) in enumerate(rows)])


def queue_of(tickets: list[Ticket], quantum: int) -> FairQueue[Ticket]:
    queue = FairQueue[Ticket](lambda ticket: ticket, quantum)
    for ticket in tickets:
        queue.add(ticket)
    return queue


def drain(tickets: list[Ticket], quantum: int) -> list[Ticket]:
    """Take one after another, asking anew each time."""
    waiting, gone = queue_of(tickets, quantum), []
    while waiting:
        first = next(iter(waiting))
        waiting.take(first)
        gone.append(first)
    assert list(waiting) == []
    return gone


def test_one_tenant_goes_by_class_then_arrival() -> None:
    """Without a second tenant the costs do not matter."""
    tickets = [Ticket(0, "", 2, 900), Ticket(0, "", 1, 5), Ticket(-1, "", 3, 5000)]
    assert drain(tickets, 100) == [tickets[2], tickets[1], tickets[0]]


def test_a_flood_does_not_delay_another_tenant() -> None:
    """One request behind a hundred of another tenant goes among the first."""
    flood = [Ticket(0, "flood", float(i), 10) for i in range(100)]
    late = Ticket(0, "late", 100.0, 10)
    assert drain([*flood, late], 10).index(late) == 1


def test_large_requests_take_fewer_turns() -> None:
    """Tenants share the work, not the number of requests."""
    large = [Ticket(0, "large", float(i), 40) for i in range(5)]
    small = [Ticket(0, "small", 10.0 + i, 10) for i in range(20)]
    gone = drain([*large, *small], 20)
    by_then = gone[: gone.index(large[3])]
    assert sum(ticket.tenant == "small" for ticket in by_then) >= 12


def test_leaving_and_coming_back_saves_nothing() -> None:
    """A tenant that has nothing left to wait for takes its next turn with the others."""
    waiting = queue_of([Ticket(0, "busy", float(i), 10) for i in range(9)], 10)
    gone = Ticket(0, "guest", 0.5, 10)
    waiting.add(gone)
    for _ in range(6):
        waiting.take(next(iter(waiting)))
    waiting.add(Ticket(0, "guest", 20.0, 10))
    assert [ticket.tenant for ticket in waiting] == ["busy", "guest", "busy", "busy", "busy"]


@settings(deadline=None)
@given(TICKETS, st.integers(5, 50))
def test_the_order_is_what_taking_one_by_one_gives(tickets: list[Ticket], quantum: int) -> None:
    """Nobody is lost, and asking again after each departure does not change the order."""
    assert drain(tickets, quantum) == list(queue_of(tickets, quantum))


@settings(deadline=None)
@given(TICKETS, st.integers(5, 50))
def test_waiting_tenants_are_served_alike(tickets: list[Ticket], quantum: int) -> None:
    """While two tenants of a class wait, their work differs by a quantum and a request at most."""
    waiting = list(tickets)
    done: dict[tuple[int, str], int] = {}
    for ticket in drain(tickets, quantum):
        waiting.remove(ticket)
        key = ticket.priority, ticket.tenant
        done[key] = done.get(key, 0) + ticket.cost
        active = {(p.priority, p.tenant) for p in waiting}
        work = [done.get(k, 0) for k in active if k[0] == ticket.priority]
        if work:
            assert max(work) - min(work) <= quantum + 40


class Histories(RuleBasedStateMachine):
    """Random lives of a queue, against an account that sorts everything each time it is asked."""

    @initialize(quantum=st.integers(5, 50))
    def begin(self, quantum: int) -> None:
        self.quantum = quantum
        self.queue = queue_of([], quantum)
        self.waiting: list[Ticket] = []
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
            ticket = Ticket(*row)
            started = self.rounds.get(ticket.priority, 0) * self.quantum
            self.spent.setdefault((ticket.priority, ticket.tenant), started)
            self.waiting.append(ticket)
            self.queue.add(ticket)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), leaves=st.sampled_from(["first", "any", "cancelled"]))
    def leave(self, data: st.DataObject, leaves: str) -> None:
        item = next(iter(self.queue))
        if leaves != "first":
            item = data.draw(st.sampled_from(self.waiting))
        (self.queue.remove if leaves == "cancelled" else self.queue.take)(item)
        self.forget(item, pays=leaves != "cancelled")

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def some_leave_as_they_come(self, data: st.DataObject) -> None:
        seen = []
        before = list(self.queue)
        for item in self.queue:
            seen.append(item)
            if data.draw(st.booleans()):
                self.queue.take(item)
                self.forget(item, pays=True)
        assert seen == before

    def forget(self, item: Ticket, *, pays: bool) -> None:
        self.waiting = [other for other in self.waiting if other is not item]
        key = item.priority, item.tenant
        if pays:
            self.spent[key] += item.cost
            now = -(-self.spent[key] // self.quantum)
            self.rounds[item.priority] = max(self.rounds.get(item.priority, 0), now)
        active = {(ticket.priority, ticket.tenant) for ticket in self.waiting}
        self.spent = {k: spent for k, spent in self.spent.items() if k in active}
        classes = {priority for priority, _ in active}
        self.rounds = {priority: n for priority, n in self.rounds.items() if priority in classes}

    @invariant()
    def order_is_the_accounts(self) -> None:
        if not hasattr(self, "line"):
            return
        spent = dict(self.spent)
        keyed = []
        for index, ticket in sorted(enumerate(self.waiting), key=lambda entry: entry[1].arrival):
            key = ticket.priority, ticket.tenant
            spent[key] += ticket.cost
            turn = -(-spent[key] // self.quantum)
            keyed.append((ticket.priority, turn, ticket.arrival, index, ticket))
        expected = [ticket for *_, ticket in sorted(keyed)]
        assert len(self.queue) == len(expected)
        assert all(a is b for a, b in zip(self.queue, expected, strict=True))


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)
