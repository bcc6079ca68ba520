"""Token timings: one first text per request, then the gaps within each choice."""

import time

from prometheus_client import REGISTRY

from services.gateway.domain.generation import TextDelta, Usage
from services.gateway.http.metrics import GenerationMeter


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_first_and_between() -> None:
    """Two choices have one first text together; gaps are counted per choice."""
    first, between = (
        "infermesh_gateway_time_to_first_token_seconds_count",
        "infermesh_gateway_inter_token_seconds_count",
    )
    before = value(first), value(between)
    meter = GenerationMeter(time.perf_counter())
    for index in (0, 1, 0, 1, 0):
        meter.delta(index, TextDelta("x", 1))
    meter.delta(0, TextDelta("", 0, "stop"))
    assert (value(first) - before[0], value(between) - before[1]) == (1, 3)


def test_tokens() -> None:
    """Prompt and completion tokens are counted apart."""
    name = "infermesh_gateway_tokens_total"
    before = value(name, direction="prompt"), value(name, direction="completion")
    GenerationMeter(0).done(Usage(3, 5))
    after = value(name, direction="prompt"), value(name, direction="completion")
    assert (after[0] - before[0], after[1] - before[1]) == (3, 5)
