"""A run's figures."""

import json

from bench.service.answers import Answer
from bench.service.figures import Figures
from bench.service.load import Report

GOOD = Answer(0.0, (0.1, 0.2), 40, 0, 3, False, 0.2)
REFUSED = Answer(0.0, fault="HTTP 429")


def test_failures_count_among_the_percentiles() -> None:
    """Two of a hundred refused: the 99th percentile of the first token is infinite, no number."""
    figures = Figures.of(Report([GOOD] * 98 + [REFUSED] * 2, 10.0, 0.5), {"gateway": 0.4})
    assert figures.failures == {"HTTP 429": 2}
    assert (figures.ttft_p50_s, figures.ttft_p99_s) == (0.1, float("inf"))
    assert json.loads(json.dumps(figures.fields(), allow_nan=False))["ttft_p99_s"] is None
    assert "2 HTTP 429" in figures.line()


def test_tokens_and_processor_time_are_per_request() -> None:
    """Of whole answers, and of all that were sent."""
    figures = Figures.of(Report([GOOD] * 4, 2.0, 0.5), {"gateway": 0.4})
    assert (figures.tokens_per_s, figures.tokens_per_request) == (6.0, 3.0)
    assert (figures.client_cpu_share, dict(figures.cpu_ms_per_request)) == (
        0.25,
        {"gateway": 100.0},
    )
    assert figures.meets(0.11, 0.06) and not figures.meets(0.1, 0.06)


def test_one_failure_meets_nothing() -> None:
    """However fast the others are."""
    assert not Figures.of(Report([GOOD] * 999 + [REFUSED], 2.0, 0.5), {}).meets(1.0, 1.0)
