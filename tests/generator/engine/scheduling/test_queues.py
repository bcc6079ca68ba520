"""Waiting and running queues: their order, and the status of what is in them."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from services.generator.engine.kv.block_pool import BlockPool
from services.generator.engine.kv.prefix_cache import root_hash
from services.generator.engine.request import Request, RequestStatus
from services.generator.engine.sampling_params import SamplingParams
from services.generator.engine.scheduling.queues import RequestQueues, RunningQueue
from services.generator.engine.sequences.beam_group import BeamGroup
from services.generator.engine.sequences.fork import plan_forks
from services.generator.engine.token_logprobs import Candidate


def test_priority_goes_before_arrival(make_request: Callable[..., Request]) -> None:
    """A lower priority number goes first; equal ones go by arrival, wherever they re-enter."""
    late, early, urgent = (
        make_request(arrival_index=2),
        make_request(arrival_index=1),
        make_request(arrival_index=3, priority=-1),
    )
    queue = RunningQueue()
    for request in (late, urgent, early):
        queue.add(request)
    assert list(queue) == [urgent, early, late]
    queue.remove(early)
    assert list(queue) == [urgent, late]
    assert queue[-1] is late


@given(st.lists(st.integers(-2, 2), max_size=20), st.randoms())
def test_any_order_of_insertion_gives_the_same_queue(priorities: list[int], rng: object) -> None:
    """The queue is a function of its members alone."""
    requests = [
        Request(
            str(index), [1], SamplingParams(), 0, frozenset(), root_hash(""), index, 0.0, priority
        )
        for index, priority in enumerate(priorities)
    ]
    queue = RunningQueue()
    for request in sorted(requests, key=lambda _: rng.random()):  # type: ignore[attr-defined]
        queue.add(request)
    assert list(queue) == sorted(requests, key=lambda request: request.order)


def test_a_status_changes_with_the_queue(make_request: Callable[..., Request]) -> None:
    """A request runs, is preempted, runs again and ends; it is in one queue at a time."""
    queues = RequestQueues(2)
    request, other = make_request(), make_request()
    queues.add(request)
    queues.add(other)
    queues.take_slot(request)
    assert (list(queues.waiting), list(queues.running)) == ([other], [request])
    queues.preempt(request)
    assert request.status is RequestStatus.WAITING
    assert (set(queues.waiting), list(queues.running)) == ({request, other}, [])
    queues.take_slot(request)
    assert request.status is RequestStatus.RUNNING
    queues.remove(request)
    queues.remove(other)
    assert request.status is other.status is RequestStatus.FINISHED
    assert list(queues) == []


def test_forks_take_their_slots_before_they_run(make_request: Callable[..., Request]) -> None:
    """A request whose prompt others wait for takes a slot for each of them."""
    queues = RequestQueues(4)
    request, follower = make_request(), make_request()
    plan_forks(request, [follower])
    queues.add(request)
    queues.take_slot(request)
    assert queues.num_free_slots == 2


def test_beams_stop_with_their_leader(make_request: Callable[..., Request]) -> None:
    """A preempted group waits as its leader alone, and starts from its prompt again."""
    queues = RequestQueues(4)
    params = SamplingParams(max_tokens=8, beam_width=2)
    leader, beam = make_request(params=params), make_request(params=params)
    group = BeamGroup(leader, [beam])
    queues.add(leader)
    queues.take_slot(leader)
    change = group.extend(leader, [Candidate(5, -0.1), Candidate(6, -0.2)], BlockPool(4, 4))
    assert change is not None
    queues.swap(*change)
    assert (list(queues.running), leader.token_ids[3:]) == ([leader, beam], [5])
    queues.preempt(leader)
    assert (list(queues.waiting), list(queues.running)) == ([leader], [])
    assert (leader.token_ids, leader.num_slots) == ([1, 2, 3], 2)
