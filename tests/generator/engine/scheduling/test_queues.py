"""The order of requests."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from services.generator.engine.kv.prefix_cache import root_hash
from services.generator.engine.request import Request
from services.generator.engine.sampling_params import SamplingParams
from services.generator.engine.scheduling.queues import RunningQueue


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
