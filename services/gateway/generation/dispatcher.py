"""Which job runs on which replica, and when. Pure state: knows neither the bus nor the clock.

Every method that changes state is synchronous and returns the work that follows from it; `fleet`
sends it. Of the jobs that wait for a model, `mesh.fair_queue` says which goes first, as it does inside
the engine; where it goes, `routing` says.
"""

import itertools
import operator
from collections.abc import Iterator
from dataclasses import dataclass, replace

from mesh.errors import Code, MeshError, unavailable
from mesh.fair_queue import FairQueue
from services.gateway.domain.generation import Model
from services.gateway.generation.job import Job
from services.gateway.generation.routing import Replica, Report, Routing, full_report, least_loaded

# a replica that has been silent for so long is lost, and its jobs with it
SILENCE_LIMIT_S = 3.0
# a sent job that a replica does not list for so long never arrived, or its end was lost
MISSING_LIMIT_S = 2.0
# the least that a refused caller is told to wait, where no replica knows better
MIN_WAIT_S = 1.0


@dataclass(frozen=True, slots=True)
class Work:
    """What follows from a change: jobs to send to their `replica_id`, jobs that were lost.

    `refused` came back from their replicas, to a full queue.
    """

    send: tuple[Job, ...] = ()
    lost: tuple[Job, ...] = ()
    refused: tuple[Job, ...] = ()


class Dispatcher:
    """The gateway's queue and its view of the fleet; each job is in exactly one place."""

    def __init__(
        self,
        max_waiting: int,
        max_waiting_tokens: int,
        *,
        route: Routing = least_loaded,
    ) -> None:
        self._max_waiting = max_waiting
        self._max_waiting_tokens = max_waiting_tokens
        self._route = route
        self._waiting: dict[str, Job] = {}
        self._lines: dict[Model, FairQueue[Job]] = {}
        self._waiting_tokens = 0
        self._running: dict[str, Job] = {}
        self._replicas: dict[str, Replica] = {}

    def __repr__(self) -> str:
        return (
            f"Dispatcher(waiting={len(self._waiting)}, waiting_tokens={self._waiting_tokens}, "
            f"running={len(self._running)}, replicas={len(self._replicas)})"
        )

    def models(self) -> list[Model]:
        """What the live replicas serve, each once, in the order in which they appeared."""
        return list(dict.fromkeys(r.report.model for r in self._replicas.values()))

    def num_waiting(self) -> int:
        """Jobs in the queue."""
        return len(self._waiting)

    def num_running(self) -> int:
        """Jobs on replicas."""
        return len(self._running)

    def submit(self, job: Job) -> Work:
        """Takes a job in; raises MeshError when nobody serves its model or the queue is full."""
        if job.model not in self.models():
            raise unavailable("No replica serves this model now.")
        self._enqueue(job)
        work = self._place()
        if self._is_over(job):
            self._drop_waiting(job)
            raise self.queue_full(job.model)
        return work

    def queue_full(self, model: Model) -> MeshError:
        """The refusal, with the shortest wait that a replica of the model expects."""
        reports = [r.report for r in self._replicas.values() if not r.report.draining]
        waits = [report.expected_wait_s for report in reports if report.model == model]
        return MeshError(
            Code.RESOURCE_EXHAUSTED,
            "The request queue is full.",
            retry_after_s=max(MIN_WAIT_S, min(waits, default=MIN_WAIT_S)),
        )

    def report(self, report: Report, now: float) -> Work:
        """A replica spoke: its word replaces what was assumed of it."""
        replica = self._replicas.get(report.replica_id)
        if replica is None:
            replica = self._replicas[report.replica_id] = Replica(report, now)
        replica.report, replica.heard = report, now
        replica.ended &= report.job_ids
        lost = []
        for job in [j for j in self._running.values() if j.replica_id == report.replica_id]:
            if job.id in report.job_ids:
                job.listed = now
                replica.unlisted.pop(job.id, None)
            elif now - (job.listed or job.sent) > MISSING_LIMIT_S:
                lost.append(job)
        # even where nothing was lost: a report may tell of room
        return self._lose(lost)

    def progressed(self, job_id: str) -> None:
        """Output of a job arrived; it can no longer be placed anew."""
        job = self._running.get(job_id)
        if job is not None:
            job.has_output = True

    def rejected(self, job_id: str, expected_wait_s: float | None = None) -> Work:
        """The replica had no room after all: the job waits again, the replica counts as full.

        A job that finds no other replica, and the queue full, is refused.
        """
        job = self._running.pop(job_id, None)
        if job is None:
            return Work()
        replica = self._forget_placement(job)
        if replica is not None:
            replica.report = full_report(replica, expected_wait_s)
        self._enqueue(job)
        work = self._place()
        if not self._is_over(job):
            return work
        self._drop_waiting(job)
        return replace(work, refused=(job,))

    def ended(self, job_id: str) -> Work:
        """A job is over, however: its place is free."""
        self.withdraw(job_id)
        return self._place()

    def withdraw(self, job_id: str) -> str | None:
        """Forgets a job; returns the replica that runs it, if one does."""
        waiting = self._waiting.get(job_id)
        if waiting is not None:
            self._drop_waiting(waiting)
            return None
        job = self._running.pop(job_id, None)
        if job is None:
            return None
        self._forget_placement(job)
        return job.replica_id

    def expire(self, now: float) -> Work:
        """Drops replicas that fell silent; their jobs are placed anew or lost."""
        silent = [i for i, r in self._replicas.items() if now - r.heard > SILENCE_LIMIT_S]
        return self._drop_replicas(silent)

    def gone(self, replica_id: str) -> Work:
        """Nobody listens where the replica did; its jobs are placed anew or lost."""
        return self._drop_replicas([replica_id] if replica_id in self._replicas else [])

    def replica_ids(self) -> list[str]:
        """The replicas that count as alive."""
        return list(self._replicas)

    def check(self) -> None:
        """Asserts that the accounts agree."""
        assert not self._waiting.keys() & self._running.keys()
        assert self._waiting_tokens == sum(j.peak_tokens for j in self._waiting.values())
        for replica in self._replicas.values():
            assert replica.unlisted.keys() <= self._running.keys()
        assert all(j.replica_id is None for j in self._waiting.values())
        lines = {job.id: job for job in itertools.chain(*self._lines.values())}
        assert lines == self._waiting and all(self._lines.values())
        assert all(j.replica_id is not None for j in self._running.values())

    def _is_over(self, job: Job) -> bool:
        """Whether a job that was just taken in waits beyond the queue's bounds."""
        over = len(self._waiting) > self._max_waiting
        over = over or self._waiting_tokens > self._max_waiting_tokens
        return job.replica_id is None and over

    def _place(self) -> Work:
        if not any(r.room_sequences > 0 for r in self._replicas.values()):
            return Work()
        return Work(send=tuple(job for model in list(self._lines) for job in self._fill(model)))

    def _fill(self, model: Model) -> Iterator[Job]:
        """Places a model's jobs until the first of them finds no room."""
        taking = [
            r for r in self._replicas.values() if r.report.model == model and not r.report.draining
        ]
        for job in self._lines[model]:
            replica = self._route(job, taking)
            if replica is None:
                return
            self._drop_waiting(job, has_its_turn=True)
            job.replica_id = replica.report.replica_id
            self._running[job.id] = replica.unlisted[job.id] = job
            yield job

    def _drop_replicas(self, replica_ids: list[str]) -> Work:
        for replica_id in replica_ids:
            del self._replicas[replica_id]
        return self._lose([j for j in self._running.values() if j.replica_id in replica_ids])

    def _lose(self, jobs: list[Job]) -> Work:
        lost = tuple(job for job in jobs if job.has_output)
        for job in jobs:
            del self._running[job.id]
            self._forget_placement(job)
            if not job.has_output:
                self._enqueue(job)
        return Work(send=self._place().send, lost=lost)

    def _enqueue(self, job: Job) -> None:
        job.replica_id, job.sent, job.listed = None, 0.0, None
        self._waiting[job.id] = job
        self._waiting_tokens += job.peak_tokens
        if job.model not in self._lines:
            self._lines[job.model] = FairQueue(operator.attrgetter("ticket"))
        self._lines[job.model].add(job)

    def _drop_waiting(self, job: Job, *, has_its_turn: bool = False) -> None:
        del self._waiting[job.id]
        self._waiting_tokens -= job.peak_tokens
        line = self._lines[job.model]
        if has_its_turn:
            line.take(job)
            job.had_its_turn = True
        else:
            line.remove(job)
        if not line:
            del self._lines[job.model]

    def _forget_placement(self, job: Job) -> Replica | None:
        replica = self._replicas.get(job.replica_id or "")
        if replica is None or replica.unlisted.pop(job.id, None) is not None:
            return replica
        # a report that lists it no more has its room already
        if job.id in replica.report.job_ids:
            replica.ended.add(job.id)
        return replica
