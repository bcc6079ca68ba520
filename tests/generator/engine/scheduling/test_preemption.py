"""Preemption: which requests lose their blocks, and that their tokens do not change."""

from collections.abc import Callable

import pytest

from services.generator.engine.request import FinishReason, Request
from services.generator.engine.sampling_params import SamplingParams
from tests.generator.engine.fake_executor import continuation
from tests.generator.engine.loop import Loop

MakeRequest = Callable[..., Request]


def test_the_youngest_is_preempted_and_loses_nothing(make_request: MakeRequest) -> None:
    """Out of blocks, the last in order is preempted and later ends with the same tokens."""
    loop = Loop(num_blocks=6, output_quantile=0.0)
    params = SamplingParams(max_tokens=12)
    requests = [make_request([index] * 6, params=params) for index in range(3)]
    for request in requests:
        loop.scheduler.add(request)
    loop.finish_all()
    assert loop.scheduler.preemption.num_preemptions > 0
    assert requests[0].num_preemptions == 0
    for index, request in enumerate(requests):
        assert request.token_ids[6:] == continuation([index] * 6, 12)


def test_a_preemption_is_explained(
    make_request: MakeRequest, caplog: pytest.LogCaptureFixture
) -> None:
    """One log line names both requests and what was held, and the figures add it up."""
    loop = Loop(num_blocks=4, output_quantile=0.0)
    for index in range(2):
        loop.scheduler.add(make_request([index] * 5, params=SamplingParams(max_tokens=11)))
    loop.finish_all()
    assert loop.scheduler.preemption.num_preemptions == 1
    [line] = caplog.messages
    assert line.startswith("preempted r2 (priority 0, time 1): r1 needs 1 blocks, 0 are available")
    assert line.endswith("it held 2 blocks with 8 computed tokens")
    assert loop.scheduler.preemption.num_preempted_blocks == 2
    assert loop.scheduler.preemption.num_preempted_tokens == 8


def test_the_least_urgent_is_preempted_before_the_latest(make_request: MakeRequest) -> None:
    """Priority chooses the victim first, arrival second."""
    loop = Loop(num_blocks=6, output_quantile=0.0)
    params = SamplingParams(max_tokens=12)
    requests = [make_request([i] * 6, params=params, priority=p) for i, p in enumerate((1, 0, 0))]
    for request in requests:
        loop.scheduler.add(request)
    while loop.scheduler.preemption.num_preemptions == 0:
        loop.step()
    assert [request.num_preemptions for request in requests] == [1, 0, 0]
    loop.finish_all()


def test_nothing_is_admitted_in_a_step_that_preempts(make_request: MakeRequest) -> None:
    """A step that took blocks away does not hand them to a newcomer."""
    loop = Loop(num_blocks=4, output_quantile=0.0)
    for index in range(2):
        loop.scheduler.add(make_request([index] * 5, params=SamplingParams(max_tokens=11)))
    while loop.scheduler.preemption.num_preemptions == 0:
        loop.step()
    assert set(loop.sizes) == {"r1"}
    loop.finish_all()


def test_a_request_as_large_as_the_pool_ends(make_request: MakeRequest) -> None:
    """The oldest request always progresses, even if it needs every block."""
    loop = Loop(num_blocks=4, output_quantile=0.0)
    for index in range(3):
        loop.scheduler.add(make_request([index] * 8, params=SamplingParams(max_tokens=8)))
    ended = loop.finish_all()
    assert {output.finish_reason for output in ended.values()} == {FinishReason.LENGTH}


def test_what_waits_for_a_prefix_is_counted_anew_in_each_step(make_request: MakeRequest) -> None:
    """A step that preempts admits nothing, so that nothing is passed over in it."""
    loop = Loop(num_blocks=6, output_quantile=0.0, max_batched_tokens=9)
    params = SamplingParams(max_tokens=12)
    for prompt in ([1] * 6, [2] * 6, [2] * 6):
        loop.scheduler.add(make_request(prompt, params=params))
    counts = []
    while loop.scheduler.preemption.num_preemptions == 0:
        loop.step()
        counts.append(loop.scheduler.admission.num_waiting_for_prefix)
    assert (max(counts), counts[-1]) == (1, 0)
