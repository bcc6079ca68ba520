"""Limits of the waiting queue, and how fast it empties."""

from collections.abc import Callable

import pytest

from services.generator.engine.errors import QueueFullError
from services.generator.engine.request import Request
from services.generator.engine.sampling_params import SamplingParams
from services.generator.engine.scheduling.queue_limits import DrainRate
from tests.generator.engine.loop import Loop

MakeRequest = Callable[..., Request]


def test_nothing_is_known_at_first() -> None:
    """Without a measurement the wait is a guess of one second."""
    rate = DrainRate()
    assert (rate.tokens_per_s, rate.expected_wait_s(1000)) == (0.0, 1.0)


def test_a_steady_rate_is_found() -> None:
    """So many tokens a second take so many seconds for what waits."""
    rate = DrainRate()
    for _ in range(50):
        rate.observe(20, 0.1)
    assert rate.tokens_per_s == pytest.approx(200, rel=0.01)
    assert rate.expected_wait_s(1000) == pytest.approx(5.0, rel=0.01)


def test_the_rate_follows_a_change() -> None:
    """After two half-lives three quarters of the old rate are forgotten, whatever the step."""
    rate = DrainRate()
    for _ in range(1000):
        rate.observe(100, 0.1)
    for _ in range(200):
        rate.observe(0, 0.1)
    assert rate.tokens_per_s == pytest.approx(250, rel=0.05)


def test_a_stuck_queue_has_a_finite_wait() -> None:
    """A queue from which nothing left does not divide by zero."""
    rate = DrainRate()
    rate.observe(0, 5.0)
    assert rate.expected_wait_s(100) == pytest.approx(600.0)
    assert rate.expected_wait_s(0) == 0.0


def test_a_full_queue_refuses_with_the_expected_wait(make_request: MakeRequest) -> None:
    """Each limit refuses by name, and the wait is what waits over the measured rate."""
    loop = Loop(max_num_seqs=1, max_batched_tokens=8, max_queued_requests=3, max_queued_tokens=30)
    params = SamplingParams(max_tokens=1)
    for index in range(3):
        loop.scheduler.add(make_request([index] * 8, params=params))
    with pytest.raises(QueueFullError) as refused:
        loop.scheduler.add(make_request([7]))
    assert (refused.value.limit, refused.value.expected_wait_s) == ("max_queued_requests", 1.0)
    loop.step()
    loop.step()
    with pytest.raises(QueueFullError) as refused:
        loop.scheduler.add(make_request([7] * 23))
    assert refused.value.limit == "max_queued_tokens"
    assert refused.value.expected_wait_s == pytest.approx(1.0)
    assert loop.scheduler.queue_limits.num_refusals == 2
    loop.scheduler.add(make_request([7] * 22))
    assert len(loop.finish_all()) == 2


def test_an_empty_queue_takes_a_long_prompt(make_request: MakeRequest) -> None:
    """A prompt above the limit would otherwise never be served."""
    loop = Loop(max_queued_tokens=10)
    loop.scheduler.add(make_request(range(20)))
    assert len(loop.finish_all()) == 1
