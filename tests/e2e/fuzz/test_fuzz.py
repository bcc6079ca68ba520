"""Generated requests against a running gateway: each is answered or refused, none breaks it."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.fuzz import report
from tests.e2e.fuzz.run import run
from tests.e2e.fuzz.target import target

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

# always the same cases; `make fuzz` takes others
SEED = 1
CASES = 2000
# the cases' own run takes a third of this on two idle cores
LIMIT_S = 60.0
LEAST_ACCEPTED = 0.15
LEAST_NEAR_VALID = 0.25


def test_no_request_breaks_the_gateway(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Two thousand cases in a minute: no 5xx, no hang, and each refusal in OpenAI's shape."""
    with target(tmp_path) as (address, folder):
        summary = asyncio.run(run(address, SEED, range(CASES), folder))
    counts = report.counts(summary)
    record_property("figures", counts)
    if not summary.is_well:
        pytest.fail(f"{report.failures(summary)}\n\n{counts}", pytrace=False)
    assert summary.num_cases == CASES
    assert summary.seconds <= LIMIT_S, counts
    assert summary.accepted_share >= LEAST_ACCEPTED, counts
    assert summary.near_valid_share >= LEAST_NEAR_VALID, counts
