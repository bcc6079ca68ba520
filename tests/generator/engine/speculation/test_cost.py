"""The cost of a row, from noisy steps, and from steps that do not show it."""

import random

import pytest

from services.generator.engine.speculation.cost import RowTime


def test_the_line_is_found_through_noise() -> None:
    """Steps of different sizes show what a row adds and what a step takes."""
    rng = random.Random(0)
    time = RowTime()
    for _ in range(200):
        num_rows = rng.choice((8, 16, 64))
        time.observe(num_rows, (0.005 + 0.0001 * num_rows) * rng.uniform(0.95, 1.05))
    assert time.row_s() == pytest.approx(0.0001, rel=0.1)
    assert time.step_s(32) == pytest.approx(0.0082, rel=0.05)


def test_steps_of_one_size_leave_a_guess() -> None:
    """A row is taken to cost a quarter of its share, until one step of another size is seen."""
    time = RowTime()
    for _ in range(50):
        time.observe(8, 0.008)
    assert time.row_s() == pytest.approx(0.00025)
    assert time.step_s(8) == pytest.approx(0.008)
    time.observe(32, 0.032)
    assert time.row_s() == pytest.approx(0.001, rel=0.01)


def test_what_is_not_seen_again_is_forgotten() -> None:
    """After long enough the guess is back, so that a busy moment is not held against drafts."""
    time = RowTime()
    time.observe(8, 0.008)
    time.observe(16, 0.100)
    assert time.row_s() > 0.01
    for _ in range(500):
        time.observe(8, 0.008)
    assert time.row_s() < 0.0003


def test_nothing_is_known_before_the_first_step() -> None:
    """Both are 0, and no time is negative however the steps were."""
    assert (RowTime().row_s(), RowTime().step_s(4)) == (0.0, 0.0)
    time = RowTime()
    time.observe(1, 1.0)
    time.observe(10, 0.1)
    assert time.row_s() == 0.0
    assert time.step_s(100) > 0.0
