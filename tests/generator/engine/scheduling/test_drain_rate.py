"""How fast the queue empties."""

import pytest

from services.generator.engine.scheduling.drain_rate import DrainRate


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
