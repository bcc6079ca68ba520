"""Arrivals of the open loop."""

from itertools import pairwise

import pytest

from bench.service.arrivals import poisson


def test_arrivals_are_poisson() -> None:
    """As many as the rate says, gaps whose deviation is their mean, the same for a seed."""
    moments = poisson(50.0, 200.0, seed=1)
    gaps = [late - early for early, late in pairwise(moments)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert len(moments) == pytest.approx(10_000, rel=0.03)
    assert deviation == pytest.approx(mean, rel=0.05)
    assert moments == poisson(50.0, 200.0, seed=1) != poisson(50.0, 200.0, seed=2)
    assert min(gaps) >= 0 and moments[-1] < 200.0
