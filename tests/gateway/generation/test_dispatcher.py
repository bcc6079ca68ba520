"""The queue and the placement of jobs: examples for each rule, then random histories."""

import dataclasses
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mesh.errors import Code, MeshError
from mesh.fair_queue import QUANTUM, FairQueue, Ticket
from services.gateway.domain.generation import Model, Reservation
from services.gateway.generation.dispatcher import (
    MISSING_LIMIT_S,
    SILENCE_LIMIT_S,
    Dispatcher,
)
from services.gateway.generation.job import Job, Work
from services.gateway.generation.routing import Report

A = Model("a", "r1", 512, 100)
B = Model("b", "r1", 512, 100)


def job(
    name: str,
    model: Model = A,
    *,
    tokens: int = 20,
    priority: int = 0,
    tenant: str = "",
    at: float = 0.0,
) -> Job:
    lengths = tokens // 2, tokens - tokens // 2
    return Job(name, model, *lengths, arrived=at, tenant=tenant, priority=priority)


def said(
    replica_id: str,
    *,
    room: int = 4,
    tokens: int = 1000,
    load: int = 0,
    model: Model = A,
    jobs: tuple[str, ...] = (),
    draining: bool = False,
    wait_s: float = 0.0,
) -> Report:
    return Report(replica_id, model, room, tokens, load, draining, frozenset(jobs), wait_s)


def sent(work: Work) -> dict[str, str | None]:
    return {j.id: j.replica_id for j in work.send}


def dispatcher(*reports: Report, max_waiting: int = 8, max_tokens: int = 1000) -> Dispatcher:
    made = Dispatcher(max_waiting, max_tokens)
    for report in reports:
        made.report(report, 0.0)
    return made


def submit(to: Dispatcher, *jobs: Job, now: float = 0.0) -> dict[str, str | None]:
    placed: dict[str, str | None] = {}
    for each in jobs:
        work = to.submit(each)
        for one in work.send:
            one.sent = now
        placed |= sent(work)
    to.check()
    return placed


def test_a_model_that_nobody_serves_is_unavailable() -> None:
    """A job whose model no live replica serves is refused and leaves nothing behind."""
    fleet = dispatcher(said("r1", model=B))
    with pytest.raises(MeshError) as refused:
        fleet.submit(job("j", A))
    assert refused.value.code is Code.UNAVAILABLE
    assert fleet.num_waiting() == fleet.num_running() == 0


def test_jobs_spread_over_the_least_loaded() -> None:
    """Each job goes to the replica with the fewest sequences, what was just sent counted."""
    fleet = dispatcher(said("r1", load=2), said("r2", load=0))
    placed = submit(fleet, *(job(str(i)) for i in range(4)))
    assert list(placed.values()).count("r2") == 3
    assert list(placed.values())[:2] == ["r2", "r2"]


def test_only_announced_room_is_filled() -> None:
    """Jobs beyond the announced room wait; an end makes room for exactly one."""
    fleet = dispatcher(said("r1", room=2))
    assert submit(fleet, *(job(str(i), at=i) for i in range(5))).keys() == {"0", "1"}
    assert fleet.num_waiting() == 3
    assert sent(fleet.ended("0")).keys() == {"2"}
    assert not fleet.ended("0").send, "the second end of one job frees nothing"


def test_a_new_report_replaces_assumptions() -> None:
    """A report that lists the sent jobs and tells of room again lets the next ones go."""
    fleet = dispatcher(said("r1", room=1))
    submit(fleet, job("0"), job("1", at=1), job("2", at=2))
    assert sent(fleet.report(said("r1", room=1, load=1, jobs=("0",)), 0.5)).keys() == {"1"}
    assert not fleet.report(said("r1", room=1, load=1, jobs=("0",)), 1.0).send, "1 is on its way"


def test_an_end_that_the_report_knows_already_frees_nothing() -> None:
    """A report may overtake the frame with a job's end; its room is not counted twice."""
    fleet = dispatcher(said("r1", room=1))
    submit(fleet, job("0"))
    fleet.report(said("r1", room=0, load=1, jobs=("0",)), 0.5)
    fleet.report(said("r1", room=1, load=0, jobs=()), 1.0)
    assert submit(fleet, job("1", at=1)).keys() == {"1"}
    assert not submit(fleet, job("2", at=2))
    assert not fleet.ended("0").send


def test_an_end_counts_until_the_report_knows_it() -> None:
    """The place of a job that ended is counted once: by us, then by the replica's report."""
    fleet = dispatcher(said("r1", room=1))
    submit(fleet, job("0"))
    fleet.report(said("r1", room=0, load=1, jobs=("0",)), 0.5)
    fleet.ended("0")
    fleet.report(said("r1", room=1), 1.0)
    assert submit(fleet, job("1", at=1), job("2", at=2)).keys() == {"1"}


def test_a_full_queue_refuses_with_a_time_to_retry() -> None:
    """Beyond the bound in jobs or in tokens a job is refused, and the queue stays as it was."""
    for fleet in (
        dispatcher(said("r1", room=0), max_waiting=2),
        dispatcher(said("r1", room=0), max_tokens=40),
    ):
        submit(fleet, job("0"), job("1"))
        with pytest.raises(MeshError) as refused:
            fleet.submit(job("2"))
        assert refused.value.code is Code.RESOURCE_EXHAUSTED
        assert refused.value.retry_after_s == 1.0
        assert fleet.num_waiting() == 2
        fleet.check()


def test_the_time_to_retry_is_the_shortest_expected_wait() -> None:
    """Of the replicas that serve the model and stay; a second at least."""
    fleet = dispatcher(
        said("r1", room=0, wait_s=7.5),
        said("r2", room=0, wait_s=4.25),
        said("r3", room=0, wait_s=2.0, draining=True),
        said("r4", room=0, wait_s=0.5, model=B),
        max_waiting=0,
    )
    for model, wait_s in ((A, 4.25), (B, 1.0)):
        with pytest.raises(MeshError) as refused:
            fleet.submit(job("0", model))
        assert refused.value.retry_after_s == wait_s


def test_a_full_queue_does_not_refuse_what_needs_no_wait() -> None:
    """With a queue of no places, jobs that a replica has room for still go through."""
    fleet = dispatcher(said("r1", room=2), max_waiting=0)
    assert submit(fleet, job("0"), job("1")).keys() == {"0", "1"}


def test_a_reservation_holds_its_places() -> None:
    """Others are refused while it is held, its own sequences never; a release gives places back."""
    fleet = dispatcher(said("r1", room=0), max_waiting=2)
    held = fleet.reserve(A, [20, 20])
    with pytest.raises(MeshError) as refused:
        fleet.submit(job("other"))
    assert refused.value.code is Code.RESOURCE_EXHAUSTED
    fleet.submit(job("0"), held)
    assert fleet.num_waiting() == 1
    fleet.release(held)
    submit(fleet, job("other"))
    with pytest.raises(MeshError):
        fleet.reserve(A, [20])
    fleet.check()


def test_a_reservation_counts_tokens() -> None:
    """What is held for one request is full for the next, and a submitted job counts as itself."""
    fleet = dispatcher(said("r1", room=0), max_tokens=100)
    held = fleet.reserve(A, [60])
    with pytest.raises(MeshError):
        fleet.reserve(A, [60])
    fleet.submit(job("0", tokens=30), held)
    fleet.release(fleet.reserve(A, [70]))
    fleet.check()


def test_a_sequence_beyond_the_reservation_needs_a_place_of_its_own() -> None:
    """A reservation of one lets one through the full queue, and no second."""
    fleet = dispatcher(said("r1", room=0), max_waiting=1)
    held = fleet.reserve(A, [20])
    fleet.submit(job("0"), held)
    with pytest.raises(MeshError):
        fleet.submit(job("1"), held)
    fleet.check()


def test_room_on_replicas_can_be_reserved() -> None:
    """With a queue of no places, as much is held as can run at once, by count and by tokens."""
    fleet = dispatcher(said("r1", room=2), said("r2", room=1, model=B), max_waiting=0)
    held = fleet.reserve(A, [20])
    with pytest.raises(MeshError):
        fleet.reserve(A, [20, 20])
    other = fleet.reserve(A, [20])
    fleet.reserve(B, [20])
    assert sent(fleet.submit(job("0"), held)) == {"0": "r1"}
    assert sent(fleet.submit(job("1"), other)) == {"1": "r1"}
    with pytest.raises(MeshError):
        fleet.reserve(A, [20])
    fleet.check()


def test_room_that_is_gone_refuses_no_holder() -> None:
    """What was to run at once waits where the replica turns out full, beyond the bounds."""
    fleet = dispatcher(said("r1", room=1), max_waiting=0)
    held = fleet.reserve(A, [20])
    fleet.report(said("r1", room=0), 0.5)
    assert not fleet.submit(job("0"), held).send
    assert sent(fleet.report(said("r1", room=1), 1.0)) == {"0": "r1"}


def test_behind_a_waiting_job_there_is_no_room() -> None:
    """Room that the first of the queue does not fit into is not given to those behind it."""
    fleet = dispatcher(said("r1", tokens=50, load=1), max_waiting=1)
    submit(fleet, job("large", tokens=400))
    with pytest.raises(MeshError):
        fleet.reserve(A, [20])
    fleet.reserve(A, [20], priority=-1)
    fleet.check()


def test_a_corrected_count_may_pass_the_bound() -> None:
    """More tokens than estimated are refused and leave the estimate; fewer make place."""
    fleet = dispatcher(said("r1", room=0), max_tokens=100)
    held = fleet.reserve(A, [40])
    other = fleet.reserve(A, [40])
    with pytest.raises(MeshError) as refused:
        fleet.correct(held, [80])
    assert refused.value.code is Code.RESOURCE_EXHAUSTED
    assert held.num_tokens == 40
    fleet.correct(other, [20])
    fleet.correct(held, [80])
    fleet.check()


def test_a_corrected_count_may_pass_the_room() -> None:
    """What was to run at once is refused where it turns out too large for the replica and queue."""
    fleet = dispatcher(said("r1", tokens=100, load=1), max_waiting=0)
    held = fleet.reserve(A, [40])
    with pytest.raises(MeshError):
        fleet.correct(held, [200])
    fleet.correct(held, [90])
    assert sent(fleet.submit(job("0", tokens=90), held)) == {"0": "r1"}
    fleet.check()


def test_a_holder_keeps_what_it_holds() -> None:
    """A count that did not grow is not refused where jobs came back beyond the bounds meanwhile."""
    fleet = dispatcher(said("r1", room=2), max_waiting=2)
    submit(fleet, job("0"), job("1", at=1))
    held = fleet.reserve(A, [20, 20])
    fleet.expire(SILENCE_LIMIT_S + 1)
    assert fleet.num_waiting() == 2
    fleet.correct(held, [20, 10])
    fleet.check()


def test_a_job_sent_back_takes_no_reserved_place() -> None:
    """A rejected job is refused where the only place left is held for another request."""
    fleet = dispatcher(said("r1", room=1), max_waiting=1)
    submit(fleet, job("0"))
    fleet.reserve(A, [20])
    assert [each.id for each in fleet.rejected("0").refused] == ["0"]
    fleet.check()


def test_a_model_that_nobody_serves_has_no_places() -> None:
    """A reservation names the same failure as a job."""
    with pytest.raises(MeshError) as refused:
        dispatcher(said("r1", model=B)).reserve(A, [20])
    assert refused.value.code is Code.UNAVAILABLE


def test_priority_then_arrival() -> None:
    """A lower priority number goes first; equals go in the order of their arrival."""
    fleet = dispatcher(said("r1", room=0))
    submit(fleet, job("late", at=2), job("early", at=1), job("urgent", priority=-1, at=3))
    work = fleet.report(said("r1", room=3), 0.5)
    assert [j.id for j in work.send] == ["urgent", "early", "late"]


def test_a_flood_does_not_delay_another_tenant() -> None:
    """Behind a hundred jobs of one tenant, another's goes within a quantum's worth of work."""
    fleet = dispatcher(said("r1", room=0), max_waiting=200, max_tokens=50_000)
    submit(fleet, *(job(f"flood{i}", tokens=200, tenant="flood", at=i) for i in range(100)))
    submit(fleet, job("late", tokens=200, tenant="late", at=100))
    work = fleet.report(said("r1", room=1), 0.5)
    ahead = 0
    while "late" not in sent(work):
        ahead += sum(job.peak_tokens for job in work.send)
        work = fleet.ended(work.send[0].id)
    assert 0 < ahead <= QUANTUM


def test_a_job_that_comes_back_pays_once() -> None:
    """What a replica rejected or lost goes first of its tenant, which owes nothing more for it."""
    fleet = dispatcher(said("r1", room=1), max_waiting=20, max_tokens=50_000)
    submit(fleet, job("a0", tokens=QUANTUM, tenant="a"))
    submit(fleet, job("a1", tokens=QUANTUM, tenant="a", at=1))
    submit(fleet, job("b0", tokens=QUANTUM, tenant="b", at=2))
    submit(fleet, job("b1", tokens=QUANTUM, tenant="b", at=3))
    fleet.rejected("a0")
    work = fleet.report(said("r1", room=4, tokens=50_000), 0.5)
    assert [job.id for job in work.send] == ["a0", "a1", "b0", "b1"]


def test_a_large_job_holds_back_its_own_model_only() -> None:
    """A job that waits for memory is not overtaken within its model and blocks no other one."""
    fleet = dispatcher(
        said("r1", tokens=50, load=1), said("r2", room=2, tokens=1000, model=B), max_tokens=5000
    )
    assert not submit(fleet, job("large", A, tokens=400))
    assert not submit(fleet, job("small", A, at=1))
    assert submit(fleet, job("other", B, at=2)) == {"other": "r2"}


def test_an_idle_replica_takes_a_job_of_any_size() -> None:
    """Cached blocks of a replica that runs nothing give way, so its figure does not count."""
    fleet = dispatcher(said("r1", tokens=16, load=0))
    assert submit(fleet, job("large", tokens=400)) == {"large": "r1"}


def test_tokens_on_their_way_count() -> None:
    """The tokens of jobs that a report does not list yet are taken from its room."""
    fleet = dispatcher(said("r1", tokens=100, load=1))
    assert submit(fleet, job("0", tokens=60)).keys() == {"0"}
    assert not submit(fleet, job("1", tokens=60, at=1))


def test_a_draining_replica_gets_nothing() -> None:
    """A draining replica keeps its jobs but gets no more."""
    fleet = dispatcher(said("r1", draining=True, load=0), said("r2", load=3))
    assert submit(fleet, job("0")) == {"0": "r2"}


def test_a_rejected_job_goes_to_another_replica() -> None:
    """After a rejection the replica counts as full until it speaks again."""
    fleet = dispatcher(said("r1", load=0), said("r2", load=1))
    assert submit(fleet, job("0")) == {"0": "r1"}
    assert sent(fleet.rejected("0")) == {"0": "r2"}
    assert submit(fleet, job("1", at=1)) == {"1": "r2"}
    fleet.check()


def test_a_rejected_job_without_a_place_is_refused() -> None:
    """When the other replicas reject it too and the queue is full, with the wait they told."""
    fleet = dispatcher(said("r1", load=0), said("r2", load=1), max_waiting=0)
    submit(fleet, job("0"))
    assert sent(fleet.rejected("0", 9.0)) == {"0": "r2"}
    work = fleet.rejected("0", 5.0)
    assert [j.id for j in work.refused] == ["0"]
    assert fleet.queue_full(A).retry_after_s == 5.0
    assert fleet.num_waiting() == fleet.num_running() == 0
    fleet.check()


def test_a_rejection_outweighs_ends_seen_before_it() -> None:
    """A replica that rejects is full even where jobs were withdrawn from it a moment ago."""
    fleet = dispatcher(said("r1", room=0, load=1, jobs=("gone",)))
    fleet.report(said("r1", room=1), 0.1)
    submit(fleet, job("gone"))
    fleet.report(said("r1", room=0, load=1, jobs=("gone",)), 0.2)
    assert fleet.withdraw("gone") == "r1"
    assert submit(fleet, job("next")) == {"next": "r1"}
    assert not fleet.rejected("next").send, "it would come back at once, again and again"
    assert sent(fleet.report(said("r1", room=1), 0.7)) == {"next": "r1"}


def test_withdrawing_tells_who_runs_it() -> None:
    """A waiting job is just forgotten; of a running one the replica is named, once."""
    fleet = dispatcher(said("r1", room=1))
    submit(fleet, job("runs"), job("waits", at=1))
    assert fleet.withdraw("waits") is None
    assert fleet.withdraw("runs") == "r1"
    assert fleet.withdraw("runs") is None
    assert fleet.num_waiting() == fleet.num_running() == 0


@pytest.mark.parametrize("how", ["silent", "gone"])
def test_a_lost_replica(how: str) -> None:
    """Its jobs go elsewhere unless their reader has seen output: those are lost."""
    fleet = dispatcher(said("r1", room=2), said("r2", load=1, room=0))
    submit(fleet, job("fresh"), job("begun", at=1))
    fleet.progressed("begun")
    later = SILENCE_LIMIT_S + 0.1
    fleet.report(said("r2", load=1, room=3), later)
    work = fleet.expire(later) if how == "silent" else fleet.gone("r1")
    assert sent(work) == {"fresh": "r2"}
    assert [j.id for j in work.lost] == ["begun"]
    assert fleet.replica_ids() == ["r2"]
    assert fleet.gone("r1") == Work()
    fleet.check()


def test_a_replica_that_speaks_is_not_silent() -> None:
    """Silence is counted from the last report."""
    fleet = dispatcher(said("r1"))
    fleet.report(said("r1"), SILENCE_LIMIT_S)
    fleet.expire(SILENCE_LIMIT_S + 1)
    assert fleet.models() == [A]


def test_a_job_that_never_arrived_is_placed_anew() -> None:
    """A job that the replica does not list for long was lost on its way."""
    fleet = dispatcher(said("r1"))
    submit(fleet, job("0"))
    assert not fleet.report(said("r1"), MISSING_LIMIT_S - 0.1).send
    assert sent(fleet.report(said("r1"), MISSING_LIMIT_S + 0.1)) == {"0": "r1"}
    fleet.check()


def test_a_job_that_vanished_frees_no_room_of_its_own() -> None:
    """The report that lacks a job has its place in its room already."""
    fleet = dispatcher(said("r1", room=1))
    submit(fleet, job("0"))
    fleet.report(said("r1", room=0, load=1, jobs=("0",)), 1.0)
    fleet.progressed("0")
    submit(fleet, job("1", at=1), job("2", at=2))
    work = fleet.report(said("r1", room=1), 1.1 + MISSING_LIMIT_S)
    assert [j.id for j in work.lost] == ["0"]
    assert sent(work).keys() == {"1"}


def test_models_are_listed_once() -> None:
    """Models come in the order in which their first replica appeared, each once."""
    fleet = dispatcher(said("r1", model=B), said("r2"), said("r3", model=B))
    assert fleet.models() == [B, A]


@dataclasses.dataclass
class View:
    """What an observer knows of one replica: its last word and what was sent and ended since."""

    report: Report
    heard: float
    room: int
    unlisted: set[str]
    ended: set[str]
    rejected: bool = False

    @property
    def load(self) -> int:
        return self.report.load + len(self.unlisted) - len(self.ended)


@dataclasses.dataclass
class Holding:
    """A reservation as its holder sees it: how many sequences it may still submit."""

    reservation: Reservation
    left: int
    untouched: bool = True


class Histories(RuleBasedStateMachine):
    """Random lives of a fleet; every placement is checked against an independent account."""

    max_waiting, max_tokens = 4, 1500

    @initialize()
    def begin(self) -> None:
        self.now = 100.0
        self.count = 0
        self.fleet = Dispatcher(self.max_waiting, self.max_tokens)
        self.jobs: dict[str, Job] = {}
        self.waiting: set[str] = set()
        self.running: dict[str, str] = {}
        self.with_output: set[str] = set()
        self.past: list[str] = []
        self.views: dict[str, View] = {}
        self.holdings: list[Holding] = []
        self.paid: set[str] = set()
        self.queues: dict[Model, FairQueue[Job]] = {}
        self.queued: set[str] = set()
        for name in ("r1", "r2"):
            report = said(name, room=2)
            self.views[name] = View(report, self.now, 2, set(), set())
            self.apply(self.fleet.report(report, self.now))

    def job_ids(self) -> list[str]:
        return sorted(self.waiting | self.running.keys())

    # -- what the observer concludes ------------------------------------------------------------

    def forget_placement(self, job_id: str) -> None:
        view = self.views.get(self.running.pop(job_id))
        if view is None:
            return
        if job_id in view.unlisted:
            view.unlisted.discard(job_id)
            view.room += 1
        elif job_id in view.report.job_ids:
            view.ended.add(job_id)
            view.room += 1

    def ticket(self, each: Job) -> Ticket:
        cost = 0 if each.id in self.paid else each.num_prompt_tokens + each.max_tokens
        return Ticket(each.priority, each.tenant, each.arrived, cost)

    def queue(self, model: Model) -> FairQueue[Job]:
        """Those that wait for a model, brought up to date with `waiting`."""
        queue = self.queues.setdefault(model, FairQueue(self.ticket))
        for each in map(self.jobs.__getitem__, sorted(self.waiting ^ self.queued, key=_number)):
            if each.model == model:
                (queue.add if each.id in self.waiting else queue.remove)(each)
                self.queued ^= {each.id}
        return queue

    def fits(self, each: Job, view: View) -> bool:
        # one that refused a job counts as full until it speaks again
        said_tokens = 0 if view.rejected else view.report.room_tokens
        tokens = said_tokens - sum(self.jobs[i].peak_tokens for i in view.unlisted)
        return (
            view.report.model == each.model
            and not view.report.draining
            and view.room > 0
            and (view.load == 0 or tokens >= each.peak_tokens)
        )

    def fills(self, count: int, tokens: int) -> bool:
        """Whether so many sequences more are beyond the bounds."""
        held = [holding.reservation for holding in self.holdings]
        count += len(self.waiting) + sum(each.num_places for each in held)
        tokens += sum(self.jobs[i].peak_tokens for i in self.waiting)
        tokens += sum(each.num_tokens for each in held)
        return count > self.max_waiting or tokens > self.max_tokens

    def apply(self, work: Work) -> None:
        for each in work.send:
            replica_id = each.replica_id
            assert replica_id in self.views, "sent to nobody"
            view = self.views[replica_id]
            assert self.fits(each, view), "sent without room"
            lighter = [v for v in self.views.values() if self.fits(each, v) and v.load < view.load]
            assert not lighter, "a less loaded replica had room"
            assert each.id not in self.with_output, "begun anew after output"
            queue = self.queue(each.model)
            assert next(iter(queue)) is each, "overtaken within its model"
            queue.take(each)
            self.waiting.discard(each.id)
            self.queued.discard(each.id)
            self.paid.add(each.id)
            self.running[each.id] = replica_id
            view.unlisted.add(each.id)
            view.room -= 1
            each.sent = self.now
        for each in work.lost:
            assert each.id in self.with_output, "lost although nobody had seen output"

    # -- what happens ---------------------------------------------------------------------------

    @rule(
        model=st.sampled_from([A, B]),
        tokens=st.sampled_from([20, 80, 400]),
        priority=st.sampled_from([-1, 0, 0, 0]),
        tenant=st.sampled_from(["a", "a", "b"]),
        count=st.integers(1, 3),
    )
    def submit(self, model: Model, count: int, **rest: Any) -> None:
        for _ in range(count):
            self.submit_one(model, **rest)

    def submit_one(self, model: Model, tokens: int, **rest: Any) -> None:
        new = self.new_job(model, tokens, **rest)
        full = self.fills(1, new.peak_tokens)
        try:
            work = self.fleet.submit(new)
        except MeshError as error:
            if error.code is Code.UNAVAILABLE:
                assert not self.serves(model)
            else:
                assert full
            return
        self.take_in(new, work)
        if new.id in self.waiting:
            assert not full

    def new_job(self, model: Model, tokens: int, **rest: Any) -> Job:
        self.count += 1
        return job(f"j{self.count}", model, tokens=tokens, at=self.count, **rest)

    def serves(self, model: Model) -> bool:
        return any(view.report.model == model for view in self.views.values())

    def take_in(self, new: Job, work: Work) -> None:
        assert self.serves(new.model)
        self.jobs[new.id] = new
        self.waiting.add(new.id)
        self.apply(work)

    @rule(
        model=st.sampled_from([A, B]),
        tokens=st.lists(st.sampled_from([20, 80, 400]), min_size=1, max_size=3),
        priority=st.sampled_from([-1, 0, 0, 0]),
        tenant=st.sampled_from(["a", "b"]),
    )
    def reserve(self, model: Model, tokens: list[int], priority: int, tenant: str) -> None:
        full = self.fills(len(tokens), sum(tokens))
        try:
            held = self.fleet.reserve(model, tokens, tenant=tenant, priority=priority)
        except MeshError as error:
            if error.code is Code.UNAVAILABLE:
                assert not self.serves(model)
            else:
                assert full
            return
        assert full or not held.num_direct, "room was asked for while there were places"
        self.holdings.append(Holding(held, len(tokens)))
        if held.num_places:
            assert not self.fills(0, 0)
        direct = sum(h.reservation.num_direct for h in self.holdings if self.is_for(h, model))
        if held.num_direct:
            views = [v for v in self.views.values() if v.report.model == model]
            assert direct <= sum(max(v.room, 0) for v in views if not v.report.draining)

    def is_for(self, holding: Holding, model: Model) -> bool:
        return holding.reservation.model == model

    @precondition(lambda self: any(holding.untouched for holding in self.holdings))
    @rule(data=st.data(), change=st.sampled_from([-10, 0, 10, 500]))
    def correct(self, data: st.DataObject, change: int) -> None:
        untouched = [holding for holding in self.holdings if holding.untouched]
        holding = data.draw(st.sampled_from(untouched))
        held = holding.reservation
        tokens = max(held.num_tokens // holding.left + change, 1)
        before = held.num_places, held.num_tokens, held.num_direct
        grows = tokens * held.num_places > held.num_tokens
        total = held.num_tokens + held.num_direct * held.direct_tokens
        grows = grows or tokens * holding.left > total
        try:
            self.fleet.correct(held, [tokens] * holding.left)
        except MeshError as error:
            assert error.code is Code.RESOURCE_EXHAUSTED and grows
            assert (held.num_places, held.num_tokens, held.num_direct) == before

    @precondition(lambda self: any(holding.left for holding in self.holdings))
    @rule(data=st.data(), tokens=st.sampled_from([20, 80, 400]))
    def submit_reserved(self, data: st.DataObject, tokens: int) -> None:
        holding = data.draw(st.sampled_from([each for each in self.holdings if each.left]))
        held = holding.reservation
        new = self.new_job(held.model, tokens, tenant=held.tenant, priority=held.priority)
        if not self.serves(held.model):
            with pytest.raises(MeshError, match="No replica"):
                self.fleet.submit(new, held)
            return
        holding.left -= 1
        holding.untouched = False
        self.take_in(new, self.fleet.submit(new, held))

    @precondition(lambda self: self.holdings)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        holding = data.draw(st.sampled_from(self.holdings))
        self.holdings.remove(holding)
        self.fleet.release(holding.reservation)

    @rule(
        name=st.sampled_from(["r1", "r1", "r2", "r3"]),
        room=st.integers(0, 2),
        tokens=st.sampled_from([0, 50, 200, 10_000]),
        others=st.integers(0, 2),
        draining=st.sampled_from([False, False, False, True]),
        truthful=st.booleans(),
        data=st.data(),
    )
    def report(
        self,
        name: str,
        room: int,
        tokens: int,
        others: int,
        draining: bool,
        truthful: bool,
        data: st.DataObject,
    ) -> None:
        model = B if name == "r3" else A
        held = sorted(j for j, r in self.running.items() if r == name)
        if not truthful:
            candidates = sorted({*held, *self.past[-4:]})
            held = [j for j in candidates if data.draw(st.booleans())]
        report = said(
            name,
            room=room,
            tokens=tokens,
            load=len(held) + others,
            model=model,
            jobs=(*held, *(f"foreign{i}" for i in range(others))),
            draining=draining,
        )
        old = self.views.get(name)
        mine = {j for j, r in self.running.items() if r == name}
        missing = {
            j
            for j in mine - report.job_ids
            if self.now - (self.jobs[j].listed or self.jobs[j].sent) > MISSING_LIMIT_S
        }
        unlisted = {
            j for j in mine - report.job_ids - missing if old is not None and j in old.unlisted
        }
        ended = old.ended & report.job_ids if old is not None else set()
        self.views[name] = View(
            report, self.now, room - len(unlisted) + len(ended), unlisted, ended
        )
        for each in missing:
            del self.running[each]
            if each in self.with_output:
                self.past.append(each)
            else:
                self.waiting.add(each)
        self.apply(self.fleet.report(report, self.now))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def progress(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.running)))
        self.with_output.add(job_id)
        self.fleet.progressed(job_id)

    @precondition(lambda self: self.running.keys() - self.with_output)
    @rule(data=st.data())
    def reject(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.running.keys() - self.with_output)))
        view = self.views[self.running[job_id]]
        self.forget_placement(job_id)
        view.room, view.rejected = 0, True
        self.waiting.add(job_id)
        work = self.fleet.rejected(job_id)
        self.apply(work)
        over = self.fills(0, 0)
        assert [each.id for each in work.refused] == [job_id] * (over and job_id in self.waiting)
        for each in work.refused:
            self.waiting.remove(each.id)
            self.past.append(each.id)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), cancelled=st.booleans())
    def end(self, data: st.DataObject, cancelled: bool) -> None:
        job_id = data.draw(st.sampled_from([*self.running] * 3 + self.job_ids()))
        expected = self.running.get(job_id)
        self.waiting.discard(job_id)
        if expected is not None:
            self.forget_placement(job_id)
        self.past.append(job_id)
        if cancelled:
            assert self.fleet.withdraw(job_id) == expected
        self.apply(self.fleet.ended(job_id))

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 2.5]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        silent = [r for r, v in self.views.items() if self.now - v.heard > SILENCE_LIMIT_S]
        self.lose(silent)
        self.apply(self.fleet.expire(self.now))

    @rule(name=st.sampled_from(["r1", "r2", "r3", "unknown", "unknown"]))
    def gone(self, name: str) -> None:
        if name in self.views:
            self.lose([name])
        self.apply(self.fleet.gone(name))

    def lose(self, replica_ids: list[str]) -> None:
        for replica_id in replica_ids:
            del self.views[replica_id]
        for job_id in [j for j, r in self.running.items() if r in replica_ids]:
            del self.running[job_id]
            if job_id in self.with_output:
                self.past.append(job_id)
            else:
                self.waiting.add(job_id)

    # -- what always holds ----------------------------------------------------------------------

    @invariant()
    def accounts_agree(self) -> None:
        """Each job is where the observer has it, and in that place only."""
        self.fleet.check()
        assert self.fleet.num_waiting() == len(self.waiting)
        assert self.fleet.num_running() == len(self.running)
        assert self.fleet.num_permits() == len(self.holdings)
        for holding in self.holdings:
            held = holding.reservation
            assert held.num_places + held.num_direct == holding.left
        assert set(self.fleet.replica_ids()) == self.views.keys()

    @invariant()
    def nobody_waits_in_vain(self) -> None:
        """The first job of each model waits only while no replica has room for it."""
        for model in (A, B):
            if queue := self.queue(model):
                first = next(iter(queue))
                views = [v for v in self.views.values() if not v.rejected]
                assert not any(self.fits(first, v) for v in views), f"{first.id} could go"


def _number(job_id: str) -> int:
    return int(job_id[1:])


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
