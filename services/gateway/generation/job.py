"""A sequence as its placement needs to know it, and what follows from a change of places."""

from dataclasses import dataclass

from mesh.fair_queue import Ticket
from services.gateway.domain.generation import Model


@dataclass(slots=True, eq=False)
class Job:
    """A sequence that waits for a replica or runs on one."""

    id: str
    model: Model
    num_prompt_tokens: int
    max_tokens: int
    arrived: float
    tenant: str = ""
    priority: int = 0
    replica_id: str | None = None
    sent: float = 0.0
    listed: float | None = None
    has_output: bool = False
    had_its_turn: bool = False

    @property
    def ticket(self) -> Ticket:
        """For the order of those that wait; one that comes back has had its turn already."""
        cost = 0 if self.had_its_turn else self.peak_tokens
        return Ticket(self.priority, self.tenant, self.arrived, cost)

    @property
    def peak_tokens(self) -> int:
        """KV tokens that it can come to hold."""
        return self.num_prompt_tokens + self.max_tokens


@dataclass(frozen=True, slots=True)
class Work:
    """What follows from a change: jobs to send to their `replica_id`, jobs that were lost.

    `refused` came back from their replicas, to a full queue.
    """

    send: tuple[Job, ...] = ()
    lost: tuple[Job, ...] = ()
    refused: tuple[Job, ...] = ()
