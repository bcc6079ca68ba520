"""What is measured of sequences and steps, without a scrape."""

from dataclasses import replace
from typing import Any

import pytest

from services.generator.engine import EngineStats, FinishReason, Refusal, StepOutput
from services.generator.serving.metrics import EngineMetrics
from tests.generator.backend.mock.engines import make_engine


@pytest.fixture
def stats() -> EngineStats:
    """An idle engine's."""
    return make_engine().stats()


def output(name: str, num_tokens: int, **changes: Any) -> StepOutput:
    return StepOutput(name, (1,), changes.pop("reason", None), 5, num_tokens, 2, **changes)


def counts(metrics: EngineMetrics, name: str) -> dict[str, float]:
    """The buckets in which values fell, by upper bound."""
    buckets = dict(metrics.histograms[name].buckets())
    below = 0.0
    counts = {}
    for bound, total in buckets.items():
        if total > below:
            counts[bound] = total - below
        below = total
    return counts


def test_times_are_those_of_the_steps(stats: EngineStats) -> None:
    """First tokens count from arrival, the others from the step of the one before."""
    metrics = EngineMetrics(stats, clock=lambda: 10.0)
    for name in "ab":
        metrics.arrived(name, 8)
    metrics.stepped([output("a", 1)], stats, 10.25)
    metrics.stepped([output("a", 2), output("b", 1)], stats, 10.375)
    metrics.stepped([output("a", 3), output("b", 2)], stats, 10.390625)
    metrics.stepped([output("b", 3), output("unknown", 1)], stats, 10.39111328125)
    assert counts(metrics, "time_to_first_token_seconds") == {"0.3": 1, "0.4": 1}
    assert counts(metrics, "inter_token_latency_seconds") == {"0.0005": 1, "0.02": 2, "0.15": 1}
    assert metrics.num_prompt_tokens == 10
    assert metrics.num_cached_tokens == 4


def test_an_end_without_a_token_is_no_gap(stats: EngineStats) -> None:
    """An abort closes a request, but adds no token latency and no stage that never began."""
    metrics = EngineMetrics(stats, clock=lambda: 10.0)
    metrics.arrived("a", 8)
    metrics.arrived("b", 8)
    metrics.stepped([output("a", 1)], stats, 10.3)
    ends = [output("a", 1, reason=FinishReason.ABORT), output("b", 0, reason=FinishReason.ABORT)]
    metrics.stepped(ends, stats, 11.0)
    assert counts(metrics, "inter_token_latency_seconds") == {}
    assert sum(counts(metrics, "e2e_request_latency_seconds").values()) == 2
    assert sum(counts(metrics, "request_prefill_time_seconds").values()) == 1
    assert metrics.num_live == 0


def test_an_idle_step_computes_nothing(stats: EngineStats) -> None:
    """Only steps that the engine counts are iterations."""
    metrics = EngineMetrics(stats)
    metrics.stepped([], stats, 1.0)
    assert counts(metrics, "iteration_tokens_total") == {}
    metrics.stepped([], replace(stats, num_steps=1, last_step_tokens=100), 2.0)
    assert counts(metrics, "iteration_tokens_total") == {"128.0": 1}


def test_a_refused_sequence_leaves_only_its_reason(stats: EngineStats) -> None:
    """It is neither live nor in any histogram."""
    metrics = EngineMetrics(stats)
    metrics.arrived("a", 8)
    refused = output("a", 0, reason=FinishReason.REJECTED, refusal=Refusal("full", 1.0))
    metrics.stepped([refused], stats, 1.0)
    assert metrics.refusals == {"full": 1}
    assert metrics.num_live == 0
    assert not any(counts(metrics, name) for name in metrics.histograms)
