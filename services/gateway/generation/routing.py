"""What the gateway knows of replicas, and which of them gets a job."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from services.gateway.domain.generation import Model
from services.gateway.generation.job import Job


@dataclass(frozen=True, slots=True)
class Report:
    """A replica's own words about itself, from an announcement."""

    replica_id: str
    model: Model
    room_sequences: int
    room_tokens: int
    load: int
    draining: bool
    job_ids: frozenset[str]
    expected_wait_s: float = 0.0


@dataclass(slots=True, eq=False)
class Replica:
    """What the gateway knows of a replica: its last report and what happened since."""

    report: Report
    heard: float
    unlisted: dict[str, Job] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)

    @property
    def room_sequences(self) -> int:
        """Jobs that can be sent now without waiting there."""
        return self.report.room_sequences - len(self.unlisted) + len(self.ended)

    @property
    def room_tokens(self) -> int:
        """KV tokens that are left for more jobs."""
        return self.report.room_tokens - sum(j.peak_tokens for j in self.unlisted.values())

    @property
    def load(self) -> int:
        """Sequences that run or wait there."""
        return self.report.load + len(self.unlisted) - len(self.ended)


Routing = Callable[[Job, Sequence[Replica]], Replica | None]


def capacity(replica: Replica, num_tokens: int) -> int:
    """Return how many jobs of so many KV tokens the replica could run at once.

    A replica that runs nothing has room for any one job: its prefix cache gives way.
    """
    by_tokens = max(replica.room_tokens, 0) // num_tokens
    return max(min(replica.room_sequences, by_tokens or int(replica.load == 0)), 0)


def least_loaded(job: Job, candidates: Sequence[Replica]) -> Replica | None:
    """Return the replica with the fewest sequences among those that have room for the job."""
    fitting = [replica for replica in candidates if capacity(replica, job.peak_tokens)]
    return min(fitting, key=lambda r: (r.load, -r.room_tokens), default=None)


def full_report(replica: Replica, expected_wait_s: float | None) -> Report:
    """Return the replica's report with just so much less room that nothing is left now."""
    report = replica.report
    return replace(
        report,
        room_sequences=report.room_sequences - replica.room_sequences,
        room_tokens=0,
        expected_wait_s=report.expected_wait_s if expected_wait_s is None else expected_wait_s,
    )
