"""Buckets as Prometheus defines them."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client import Histogram as Reference

from services.generator.serving.histogram import Histogram

BOUNDS = (0.5, 1.0, 2.0, 5.0)


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 0.7, 1.0, 4.0, 5.0, 9.0]), st.integers(1, 3))))
def test_many_at_once_equal_one_by_one(values: list[tuple[float, int]]) -> None:
    """Counts and sums are those of the client library, which takes one value at a time."""
    registry = CollectorRegistry()
    reference = Reference("x", "x", buckets=BOUNDS, registry=registry)
    ours = Histogram(BOUNDS)
    for value, count in values:
        ours.observe(value, count)
        for _ in range(count):
            reference.observe(value)
    for bound, total in ours.buckets():
        assert registry.get_sample_value("x_bucket", {"le": bound}) == total
    assert abs((registry.get_sample_value("x_sum") or 0.0) - ours.sum) < 1e-9


def test_the_repr_tells_the_count() -> None:
    """How many values there are, and their sum."""
    histogram = Histogram(BOUNDS)
    histogram.observe(0.5, 4)
    assert repr(histogram) == "Histogram(4 values, sum 2)"
