"""Which job runs on which replica, and when. Pure state: knows neither the bus nor the clock.

Every method that changes state is synchronous and returns the work that follows from it; `fleet`
sends it. Of the jobs that wait for a model, `waiting_queue` says which goes first, by the order of
the engine itself; where it goes, `routing` says.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from mesh.errors import Code, MeshError, unavailable
from services.gateway.domain.generation import Model, Reservation
from services.gateway.generation.job import Job, Work
from services.gateway.generation.routing import (
    Replica,
    Report,
    Routing,
    capacity,
    full_report,
    least_loaded,
)
from services.gateway.generation.waiting_queue import Room, WaitingQueue, newcomer

# a replica that has been silent for so long is lost, and its jobs with it
SILENCE_LIMIT_S = 3.0
# a sent job that a replica does not list for so long never arrived, or its end was lost
MISSING_LIMIT_S = 2.0
# the least that a refused caller is told to wait, where no replica knows better
MIN_WAIT_S = 1.0


class Dispatcher:
    """The gateway's queue and its view of the fleet; each job is in exactly one place."""

    def __init__(
        self,
        max_waiting: int,
        max_waiting_tokens: int,
        *,
        route: Routing = least_loaded,
    ) -> None:
        self._waiting = WaitingQueue(max_waiting, max_waiting_tokens)
        self._route = route
        self._running: dict[str, Job] = {}
        self._replicas: dict[str, Replica] = {}

    def __repr__(self) -> str:
        return (
            f"Dispatcher({self._waiting!r}, running={len(self._running)}, "
            f"replicas={len(self._replicas)})"
        )

    def models(self) -> list[Model]:
        """Return what the live replicas serve, each once, in the order in which they appeared."""
        return list(dict.fromkeys(r.report.model for r in self._replicas.values()))

    def num_waiting(self) -> int:
        """Return the number of jobs in the queue."""
        return len(self._waiting)

    def num_permits(self) -> int:
        """Return the number of permits that are held."""
        return self._waiting.num_reservations

    def num_running(self) -> int:
        """Return the number of jobs on replicas."""
        return len(self._running)

    def reserve(
        self, model: Model, num_tokens: Sequence[int], *, tenant: str = "", priority: int = 0
    ) -> Reservation:
        """Hold places for sequences to come; see `ports.AdmissionQueue`."""
        if model not in self.models():
            raise unavailable("No replica serves this model now.")
        reservation = Reservation(model, tenant, priority)
        self.correct(reservation, num_tokens)
        return reservation

    def correct(self, reservation: Reservation, num_tokens: Sequence[int]) -> None:
        """Count the reserved sequences anew; see `ports.AdmissionQueue`."""
        if not self._waiting.hold(reservation, num_tokens, self._room(reservation)):
            raise self.queue_full(reservation.model)

    def release(self, reservation: Reservation) -> None:
        """Give back what no sequence took; exactly once."""
        self._waiting.release(reservation)

    def submit(self, job: Job, reservation: Reservation | None = None) -> Work:
        """Take a job in, on a place of the reservation or, where it has none left, of its own.

        Raises UNAVAILABLE when nobody serves its model, RESOURCE_EXHAUSTED when it needs a place
        of its own and the queue is full.
        """
        if job.model not in self.models():
            raise unavailable("No replica serves this model now.")
        if reservation is None or not self._waiting.consume(reservation):
            own = self.reserve(
                job.model, [job.peak_tokens], tenant=job.tenant, priority=job.priority
            )
            self.release(own)
        self._enqueue(job)
        return self._place()

    def queue_full(self, model: Model) -> MeshError:
        """Return the refusal, with the shortest wait that a replica of the model expects."""
        reports = [r.report for r in self._replicas.values() if not r.report.draining]
        waits = [report.expected_wait_s for report in reports if report.model == model]
        return MeshError(
            Code.RESOURCE_EXHAUSTED,
            "The request queue is full.",
            retry_after_s=max(MIN_WAIT_S, min(waits, default=MIN_WAIT_S)),
        )

    def report(self, report: Report, now: float) -> Work:
        """Take what a replica says: its word replaces what was assumed of it."""
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
        """Note that output of a job arrived; it can no longer be placed anew."""
        job = self._running.get(job_id)
        if job is not None:
            job.has_output = True

    def rejected(self, job_id: str, expected_wait_s: float | None = None) -> Work:
        """Take back a job that its replica had no room for; the replica counts as full.

        It waits again. One that finds no other replica, and the queue full, is refused.
        """
        job = self._running.pop(job_id, None)
        if job is None:
            return Work()
        replica = self._forget_placement(job)
        if replica is not None:
            replica.report = full_report(replica, expected_wait_s)
        self._enqueue(job)
        work = self._place()
        if job.replica_id is not None or not self._waiting.is_over:
            return work
        self._waiting.remove(job)
        return replace(work, refused=(job,))

    def ended(self, job_id: str) -> Work:
        """End a job, however: its place is free."""
        self.withdraw(job_id)
        return self._place()

    def withdraw(self, job_id: str) -> str | None:
        """Forget a job; return the replica that runs it, if one does."""
        waiting = self._waiting.get(job_id)
        if waiting is not None:
            self._waiting.remove(waiting)
            return None
        job = self._running.pop(job_id, None)
        if job is None:
            return None
        self._forget_placement(job)
        return job.replica_id

    def expire(self, now: float) -> Work:
        """Drop replicas that fell silent; their jobs are placed anew or lost."""
        silent = [i for i, r in self._replicas.items() if now - r.heard > SILENCE_LIMIT_S]
        return self._drop_replicas(silent)

    def gone(self, replica_id: str) -> Work:
        """Drop a replica that listens no more; its jobs are placed anew or lost."""
        return self._drop_replicas([replica_id] if replica_id in self._replicas else [])

    def replica_ids(self) -> list[str]:
        """Return the replicas that count as alive."""
        return list(self._replicas)

    def check(self) -> None:
        """Assert that the accounts agree."""
        self._waiting.check()
        assert not any(self._waiting.get(job_id) for job_id in self._running)
        for replica in self._replicas.values():
            assert replica.unlisted.keys() <= self._running.keys()
        assert all(j.replica_id is not None for j in self._running.values())

    def _room(self, reservation: Reservation) -> Room:
        """Return how many of the reservation's sequences could run at once, by their size."""

        def room(num_tokens: int) -> int:
            # behind a job that waits there is no room: it would have gone
            if not self._waiting.goes_first(newcomer(reservation, num_tokens)):
                return 0
            return sum(capacity(replica, num_tokens) for replica in self._taking(reservation.model))

        return room

    def _taking(self, model: Model) -> list[Replica]:
        """Return the replicas that take jobs of a model."""
        replicas = self._replicas.values()
        return [r for r in replicas if r.report.model == model and not r.report.draining]

    def _place(self) -> Work:
        if not any(r.room_sequences > 0 for r in self._replicas.values()):
            return Work()
        models = self._waiting.models()
        return Work(send=tuple(job for model in models for job in self._fill(model)))

    def _fill(self, model: Model) -> Iterator[Job]:
        """Place a model's jobs until the first of them finds no room."""
        taking = self._taking(model)
        for job in self._waiting.jobs(model):
            replica = self._route(job, taking)
            if replica is None:
                return
            self._waiting.take(job)
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
        self._waiting.add(job)

    def _forget_placement(self, job: Job) -> Replica | None:
        replica = self._replicas.get(job.replica_id or "")
        if replica is None or replica.unlisted.pop(job.id, None) is not None:
            return replica
        # a report that lists it no more has its room already
        if job.id in replica.report.job_ids:
            replica.ended.add(job.id)
        return replica
