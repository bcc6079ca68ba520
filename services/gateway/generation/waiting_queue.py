"""The jobs that wait for a replica, and the places that are held for jobs to come. Pure state.

The bounds count both. What a replica has room for needs no place in the queue: it is held as a
`direct` sequence, so that a queue of no places still lets through what can run at once.
"""

import math
import operator
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, chain

from mesh.fair_queue import FairQueue
from services.gateway.domain.generation import Model, Reservation
from services.gateway.generation.job import Job

# how many sequences of so many KV tokens could run at once
Room = Callable[[int], int]


class WaitingQueue:
    """A fair queue per model, bounded in jobs and in the KV tokens they may come to need."""

    def __init__(self, max_jobs: int, max_tokens: int) -> None:
        self._max_jobs = max_jobs
        self._max_tokens = max_tokens
        self._jobs: dict[str, Job] = {}
        self._queues: dict[Model, FairQueue[Job]] = {}
        self._num_tokens = 0
        self._reservations: set[Reservation] = set()
        self._num_reserved = 0
        self._num_reserved_tokens = 0
        self._num_direct: Counter[Model] = Counter()

    def __repr__(self) -> str:
        return (
            f"WaitingQueue(jobs={len(self._jobs)}, tokens={self._num_tokens}, "
            f"reserved={self._num_reserved}, reserved_tokens={self._num_reserved_tokens})"
        )

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def num_reservations(self) -> int:
        """Reservations that were not released yet."""
        return len(self._reservations)

    def get(self, job_id: str) -> Job | None:
        """Return a job that waits."""
        return self._jobs.get(job_id)

    def models(self) -> list[Model]:
        """Return the models that jobs wait for."""
        return list(self._queues)

    def jobs(self, model: Model) -> Iterator[Job]:
        """Yield a model's jobs, first to go first; each may go as soon as it was yielded."""
        return iter(self._queues.get(model, ()))

    @property
    def is_over(self) -> bool:
        """Whether more waits or is held than the bounds allow."""
        return (
            len(self._jobs) + self._num_reserved > self._max_jobs
            or self._num_tokens + self._num_reserved_tokens > self._max_tokens
        )

    def add(self, job: Job) -> None:
        """Let a job wait, whatever the bounds say."""
        self._jobs[job.id] = job
        self._num_tokens += job.peak_tokens
        if job.model not in self._queues:
            self._queues[job.model] = FairQueue(operator.attrgetter("ticket"))
        self._queues[job.model].add(job)

    def remove(self, job: Job) -> None:
        """Take out a job that leaves without its turn."""
        self._queues[job.model].remove(job)
        self._forget(job)

    def take(self, job: Job) -> None:
        """Take out a job whose turn it is: its tenant pays, once."""
        self._queues[job.model].take(job)
        self._forget(job)
        job.had_its_turn = True

    def goes_first(self, job: Job) -> bool:
        """Whether a job that does not wait yet would be the first of its model."""
        queue = self._queues.get(job.model)
        if queue is None:
            return True
        queue.add(job)
        first = next(iter(queue))
        queue.remove(job)
        return first is job

    def hold(self, reservation: Reservation, num_tokens: Sequence[int], room: Room) -> bool:
        """Hold places for sequences of so many KV tokens, in place of what it holds already.

        Returns False, with nothing changed, where they have no place and no room. What it holds
        already it keeps, however full the queue has become.
        """
        places = max(self._max_jobs - len(self._jobs) - self._num_reserved, 0)
        tokens = max(self._max_tokens - self._num_tokens - self._num_reserved_tokens, 0)
        places += reservation.num_places
        tokens += reservation.num_tokens
        # the smallest wait in the queue, if need be: the bound in tokens holds most of them
        sizes = sorted(num_tokens)
        sums = [0, *accumulate(sizes)]
        num_places = max(k for k, total in enumerate(sums) if k <= places and total <= tokens)
        num_direct = len(sizes) - num_places
        direct_tokens = sizes[-1] if num_direct else 0
        held = reservation.num_tokens + reservation.num_direct * reservation.direct_tokens
        if num_direct > reservation.num_direct or (num_direct and sums[-1] > held):
            held_elsewhere = self._num_direct[reservation.model] - reservation.num_direct
            if num_direct > room(direct_tokens) - held_elsewhere:
                return False
        reservation.direct_tokens = direct_tokens
        self._reservations.add(reservation)
        self._change(reservation, num_places, sums[num_places], num_direct)
        return True

    def consume(self, reservation: Reservation) -> bool:
        """Give back one sequence's share for a job that comes now; False where none is left."""
        if reservation.num_direct:
            num_direct = reservation.num_direct - 1
            self._change(reservation, reservation.num_places, reservation.num_tokens, num_direct)
            return True
        if reservation.num_places:
            share = reservation.num_tokens // reservation.num_places
            num_tokens = reservation.num_tokens - share
            self._change(reservation, reservation.num_places - 1, num_tokens, 0)
            return True
        return False

    def release(self, reservation: Reservation) -> None:
        """Give back what is left of a reservation; once."""
        self._change(reservation, 0, 0, 0)
        self._reservations.remove(reservation)

    def check(self) -> None:
        """Assert that the accounts agree."""
        waiting = {job.id: job for job in chain(*self._queues.values())}
        assert waiting == self._jobs and all(self._queues.values())
        assert all(job.replica_id is None for job in self._jobs.values())
        assert self._num_tokens == sum(job.peak_tokens for job in self._jobs.values())
        held = self._reservations
        assert self._num_reserved == sum(each.num_places for each in held)
        assert self._num_reserved_tokens == sum(each.num_tokens for each in held)
        direct: Counter[Model] = Counter()
        for each in held:
            direct[each.model] += each.num_direct
            assert min(each.num_places, each.num_tokens, each.num_direct) >= 0
        assert self._num_direct == direct

    def _change(
        self, reservation: Reservation, num_places: int, num_tokens: int, num_direct: int
    ) -> None:
        self._num_reserved += num_places - reservation.num_places
        self._num_reserved_tokens += num_tokens - reservation.num_tokens
        self._num_direct[reservation.model] += num_direct - reservation.num_direct
        reservation.num_places = num_places
        reservation.num_tokens = num_tokens
        reservation.num_direct = num_direct

    def _forget(self, job: Job) -> None:
        del self._jobs[job.id]
        self._num_tokens -= job.peak_tokens
        if not self._queues[job.model]:
            del self._queues[job.model]


def newcomer(reservation: Reservation, num_tokens: int) -> Job:
    """Return a job as it would come now: behind all that its tenant has waiting."""
    return Job(
        id="",
        model=reservation.model,
        num_prompt_tokens=num_tokens,
        max_tokens=0,
        arrived=math.inf,
        tenant=reservation.tenant,
        priority=reservation.priority,
    )
