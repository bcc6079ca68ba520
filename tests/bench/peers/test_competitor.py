"""Our own engine as a worker process, from the bench's side."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.peers.catalogue import OURS, Subject, subjects
from bench.peers.competitor import Competitor, Place
from bench.peers.process import PeerError
from tests.waiting import until

PROMPTS = [[3, 4, 5, 6], [7, 8, 9]]


def place(checkpoint: Path) -> Place:
    """Return a place for two short requests."""
    return Place(checkpoint, checkpoint.parent, max_num_seqs=2, max_num_tokens=32)


@pytest.fixture(scope="module")
def ours(checkpoint: Path) -> Iterator[Competitor]:
    """Our engine's worker, loaded."""
    with Competitor(OURS, subjects()[OURS], place(checkpoint), dtype="float32") as competitor:
        yield competitor


def test_a_run_tells_when_each_token_of_each_request_came(ours: Competitor) -> None:
    """Every request has its tokens and as many moments, ascending, after the start."""
    timeline = ours.run(PROMPTS, 5)
    assert [len(ids) for ids in timeline.token_ids] == [5, 5]
    assert [len(times) for times in timeline.times_s] == [5, 5]
    for times in timeline.times_s:
        assert times == sorted(times)
        assert times[0] > timeline.start_s


def test_the_same_prompts_give_the_same_tokens(ours: Competitor) -> None:
    """A worker decodes greedily, and one run leaves nothing behind for the next."""
    assert ours.run(PROMPTS, 5).token_ids == ours.run(PROMPTS, 5).token_ids


def test_startup_is_longer_than_the_first_request(ours: Competitor) -> None:
    """The start-up time counts from the start of the process, not from the request."""
    ours.start_up(PROMPTS[:1])
    timeline = ours.run(PROMPTS[:1], 2)
    assert ours.startup_s > timeline.times_s[0][0] - timeline.start_s


async def test_a_worker_is_stopped_while_nothing_is_asked(ours: Competitor) -> None:
    """Between two questions the kernel schedules no thread of the worker."""
    ours.run(PROMPTS, 2)
    await until(lambda: ours.worker.status()["State"].startswith("T"))


def test_the_worker_tells_its_packages_and_its_memory(ours: Competitor) -> None:
    """Versions are of the worker's environment; the peak is no less than what is held now."""
    assert ours.versions["torch"]
    memory = ours.memory()
    assert memory["peak_rss_bytes"] >= memory["rss_bytes"] > 0


def test_what_an_engine_refuses_is_a_reason(ours: Competitor) -> None:
    """An error in the worker comes back in one line, and the worker goes on."""
    with pytest.raises(PeerError, match="outside the vocabulary"):
        ours.run([[1_000_000]], 2)
    assert ours.run(PROMPTS, 2).token_ids


def test_an_engine_that_does_not_start_is_a_reason(checkpoint: Path) -> None:
    """A worker that ends before it answers is named with its last words."""
    with pytest.raises(PeerError, match="No module named"):
        Competitor("absent", Subject("there_is_no_such_engine"), place(checkpoint))


def test_a_closed_worker_leaves_no_process(checkpoint: Path) -> None:
    """Closing ends the process group even while it is stopped."""
    with Competitor(OURS, subjects()[OURS], place(checkpoint)) as competitor:
        pid = competitor.worker.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
