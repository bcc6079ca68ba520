"""Which replica gets a job, and how many it could run at once."""

import pytest

from services.gateway.domain.generation import Model
from services.gateway.generation.job import Job
from services.gateway.generation.routing import Replica, Report, capacity, least_loaded

MODEL = Model("tiny", "r", 512, 256)


def replica(name: str = "r1", *, room: int = 4, tokens: int = 100, load: int = 1) -> Replica:
    return Replica(Report(name, MODEL, room, tokens, load, False, frozenset()), 0.0)


@pytest.mark.parametrize(
    ("room", "tokens", "load", "count"),
    [(4, 100, 1, 2), (1, 100, 1, 1), (4, 39, 1, 0), (4, 39, 0, 1), (0, 100, 0, 0), (4, -50, 1, 0)],
)
def test_capacity(room: int, tokens: int, load: int, count: int) -> None:
    """Bounded by sequences and by tokens; what runs nothing takes one job of any size."""
    assert capacity(replica(room=room, tokens=tokens, load=load), 40) == count


def test_the_least_loaded_with_room() -> None:
    """Fewest sequences first, then most tokens; without room it does not count."""
    job = Job("j", MODEL, 20, 20, arrived=0.0)
    full = replica("full", tokens=39)
    best = replica("a", tokens=200, load=2)
    candidates = [full, replica("busy", load=3), replica("b", load=2), best]
    assert least_loaded(job, candidates) is best
    assert least_loaded(job, [full]) is None
