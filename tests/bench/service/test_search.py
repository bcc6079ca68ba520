"""The search for the largest rate."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.service.search import largest


@given(limit=st.floats(1, 1000), start=st.floats(1, 1000))
def test_what_is_returned_was_met_and_lies_near_the_limit(limit: float, start: float) -> None:
    """With tries enough it is within the ratio below the limit."""
    tried = []

    def meets(value: float) -> bool:
        tried.append(value)
        return value <= limit

    rate = largest(meets, start, ratio=1.05, max_tries=100)
    assert rate in tried
    assert rate <= limit < rate * 1.05


@pytest.mark.parametrize("num_tries", [1, 3])
def test_no_more_tries_than_are_allowed(num_tries: int) -> None:
    """Where none is met, 0 is returned."""
    tried: list[float] = []

    def never(value: float) -> bool:
        tried.append(value)
        return False

    assert largest(never, 8.0, ratio=1.05, max_tries=num_tries) == 0
    assert tried == [8.0, 4.0, 2.0][:num_tries]
