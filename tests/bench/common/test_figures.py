"""Figures from made-up token moments."""

import math

import pytest

from bench.common.figures import Figures, floor_share, percentile

START_S = 100.0


def test_speed_counts_all_tokens_until_the_last_one() -> None:
    """Tokens per second is every request's tokens over the time until the latest of them."""
    figures = Figures.of(START_S, [[101.0, 102.0], [101.5, 104.0]])
    assert figures.num_tokens == 4
    assert figures.wall_s == 4.0
    assert figures.tokens_per_s == 1.0


def test_time_to_first_token_is_counted_from_the_start() -> None:
    """The median and the tail of the first tokens are taken over requests."""
    figures = Figures.of(START_S, [[START_S + ms / 1e3] for ms in range(1, 101)])
    assert figures.ttft_p50_s == pytest.approx(0.050)
    assert figures.ttft_p99_s == pytest.approx(0.099)


def test_time_per_token_pools_the_gaps_within_requests() -> None:
    """Gaps are between tokens of one request; the mean is of what each needs after its first."""
    figures = Figures.of(START_S, [[101.0, 101.1, 101.2, 101.3], [105.0, 105.4, 105.8, 106.2]])
    assert figures.tpot_p50_s == pytest.approx(0.1)
    assert figures.tpot_p99_s == pytest.approx(0.4)
    assert figures.tpot_mean_s == pytest.approx(0.25)


def test_one_token_has_no_time_per_token() -> None:
    """Requests of a single token leave the time per token undefined rather than zero."""
    figures = Figures.of(START_S, [[101.0], [102.0]])
    assert math.isnan(figures.tpot_p50_s)
    assert math.isnan(figures.tpot_mean_s)


def test_percentiles_are_values_that_were_seen() -> None:
    """A percentile is the nearest rank, in whatever order the values come."""
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([3.0, 1.0, 2.0], 0.99) == 3.0
    assert percentile([3.0, 1.0, 2.0], 0.0) == 1.0


def test_the_floor_is_reading_the_weights_once() -> None:
    """A token that takes twice as long as reading the weights stands at half of the floor."""
    assert floor_share(2e9, 10e9, 0.4) == pytest.approx(0.5)
