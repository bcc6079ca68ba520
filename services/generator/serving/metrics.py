"""What the engine tells Prometheus: vLLM's names, so that its boards work, and our own beside them.

Counters and gauges are read off the engine's latest stats when somebody scrapes; only the
histograms, which no reading can give, are kept up once per step.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from services.generator.engine import EngineConfig, EngineStats, FinishReason, StepOutput
from services.generator.serving.histogram import Histogram

# vLLM's label of a data-parallel rank; each of our replicas is a process with one engine
ENGINE = "0"
_SECONDS = (
    *(0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.005, 0.0075),
    *(0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_TOKENS = tuple(digit * 10**power for power in range(6) for digit in (1, 2, 5))
_STEP_TOKENS = tuple(2**power for power in range(15))
_PREEMPTIONS = (0, 1, 2, 3, 5, 10, 20, 50)
_STAGES = ("queue", "prefill", "decode")
_REASONS = tuple(reason for reason in FinishReason if reason is not FinishReason.REJECTED)


class _Histogram(NamedTuple):
    """A histogram of vLLM's, by its name without the prefix."""

    name: str
    text: str
    bounds: tuple[float, ...]


class _Reading(NamedTuple):
    """A value of the engine's stats under its public name."""

    name: str
    text: str
    read: Callable[[EngineStats], float]


class _Family(NamedTuple):
    """Values of the engine's stats that differ in one label."""

    name: str
    text: str
    label: str
    read: Callable[[EngineStats], Mapping[str, float]]


_HISTOGRAMS = (
    _Histogram("time_to_first_token_seconds", "From arrival to the first token", _SECONDS),
    _Histogram("inter_token_latency_seconds", "Between two outputs of a request", _SECONDS),
    _Histogram("request_time_per_output_token_seconds", "Mean after the first token", _SECONDS),
    _Histogram("e2e_request_latency_seconds", "From arrival to the end", _SECONDS),
    _Histogram("request_queue_time_seconds", "Waiting for the first step", _SECONDS),
    _Histogram("request_inference_time_seconds", "From the first step to the end", _SECONDS),
    _Histogram("request_prefill_time_seconds", "From the first step to a token", _SECONDS),
    _Histogram("request_decode_time_seconds", "From the first token to the end", _SECONDS),
    _Histogram("request_prompt_tokens", "Prompt tokens of a request", _TOKENS),
    _Histogram("request_generation_tokens", "Generated tokens of a request", _TOKENS),
    _Histogram("request_max_num_generation_tokens", "Of the longest choice", _TOKENS),
    _Histogram("request_params_max_tokens", "The max_tokens asked for", _TOKENS),
    _Histogram("request_num_preemptions", "Preemptions of a request", _PREEMPTIONS),
    _Histogram("iteration_tokens_total", "Tokens computed in a step", _STEP_TOKENS),
)

_GAUGES = (
    _Reading("vllm:num_requests_running", "Requests in the step", lambda s: s.num_running),
    _Reading("vllm:num_requests_waiting", "Requests that wait", lambda s: s.num_waiting),
    _Reading(
        "vllm:kv_cache_usage_perc",
        "Share of the KV blocks in use; 1 is all",
        lambda s: s.num_blocks_used / s.num_blocks_total,
    ),
)
_OWN_GAUGES = (
    _Reading("kv_waste_ratio", "Share of used token slots that hold nothing", lambda s: s.kv_waste),
    _Reading("waiting_tokens", "Prompt tokens that wait", lambda s: s.num_waiting_tokens),
    _Reading("expected_wait_seconds", "Until they are gone", lambda s: s.expected_wait_s),
    _Reading("drain_tokens_per_second", "Of the queue", lambda s: s.drain_tokens_per_s),
)
_GAUGE_FAMILIES = (
    _Family(
        "vllm:num_requests_waiting_by_reason",
        "For room, or passed over for a prefix that is being computed",
        "reason",
        lambda s: {
            "capacity": s.num_waiting - s.num_waiting_for_prefix,
            "deferred": s.num_waiting_for_prefix,
        },
    ),
)
_COUNTERS = (
    _Reading(
        "vllm:prefix_cache_queries",
        "Tokens looked up in the prefix cache",
        lambda s: s.num_prefix_query_tokens,
    ),
    _Reading(
        "vllm:prefix_cache_hits",
        "Tokens found in the prefix cache",
        lambda s: s.num_prefix_hit_tokens,
    ),
    _Reading("vllm:num_preemptions", "Preemptions", lambda s: s.num_preemptions),
    _Reading("vllm:spec_decode_num_drafts", "Drafts tried", lambda s: s.num_drafts),
    _Reading("vllm:spec_decode_num_draft_tokens", "Of them", lambda s: s.num_draft_tokens),
    _Reading("vllm:spec_decode_num_accepted_tokens", "Kept", lambda s: s.num_accepted_tokens),
    _Reading("vllm:generation_tokens", "Generated tokens", lambda s: s.num_generated_tokens),
)
_OWN_COUNTERS = (
    _Reading("steps", "Steps of the engine", lambda s: s.num_steps),
    _Reading("faults", "Faults that ended all requests", lambda s: s.num_faults),
    _Reading("computed_tokens", "Tokens computed", lambda s: s.num_computed_tokens),
    _Reading("preemptions", "Preemptions", lambda s: s.num_preemptions),
    _Reading("preempted_blocks", "Blocks that they freed", lambda s: s.num_preempted_blocks),
    _Reading("preempted_tokens", "Tokens to compute again", lambda s: s.num_preempted_tokens),
    _Reading("prefix_waits", "Requests that waited for a prefix", lambda s: s.num_prefix_waits),
)
_COUNTER_FAMILIES: tuple[_Family, ...] = (
    _Family(
        "vllm:spec_decode_num_accepted_tokens_per_pos",
        "Kept by position",
        "position",
        lambda s: {str(i): n for i, n in enumerate(s.num_accepted_tokens_per_pos)},
    ),
    _Family(
        "vllm:request_success",
        "Requests by how they ended",
        "finished_reason",
        lambda s: {reason.value: s.outcomes.get(reason, 0) for reason in _REASONS},
    ),
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The metrics at one moment, between two steps; histograms by their names."""

    stats: EngineStats
    refusals: Mapping[str, int]
    num_prompt_tokens: int
    num_cached_tokens: int
    num_live: int
    histograms: Mapping[str, Histogram]
    step_seconds: Histogram


class _Life:
    """What is remembered of a live request; times are monotonic seconds."""

    __slots__ = ("arrived_s", "last_token_s", "max_tokens", "num_tokens")

    def __init__(self, arrived_s: float, max_tokens: int) -> None:
        self.arrived_s = arrived_s
        self.max_tokens = max_tokens
        self.last_token_s: float | None = None
        self.num_tokens = 0


class EngineMetrics:
    """Follows every sequence that the bridge takes, whoever sent it; lives on the event loop.

    The lock is for `snapshot`, which a scrape asks for from a thread of its own.
    """

    def __init__(self, stats: EngineStats, clock: Callable[[], float] = time.monotonic) -> None:
        self.stats = stats
        self.refusals: Counter[str] = Counter()
        self.num_prompt_tokens = 0
        self.num_cached_tokens = 0
        self.histograms = {each.name: Histogram(each.bounds) for each in _HISTOGRAMS}
        self.step_seconds = Histogram(_SECONDS)
        self._clock = clock
        self._lock = threading.Lock()
        self._lives: dict[str, _Life] = {}

    @property
    def num_live(self) -> int:
        """Sequences that have not ended."""
        return len(self._lives)

    def arrived(self, request_id: str, max_tokens: int) -> None:
        """A sequence was taken."""
        self._lives[request_id] = _Life(self._clock(), max_tokens)

    def refused(self, reason: str) -> None:
        """A sequence was not taken."""
        with self._lock:
            self.refusals[reason] += 1

    def stepped(self, outputs: Iterable[StepOutput], stats: EngineStats, now_s: float) -> None:
        """One step of the engine ended at `now_s`."""
        gaps: dict[float, int] = {}
        with self._lock:
            if stats.num_steps > self.stats.num_steps:
                self._observe("iteration_tokens_total", stats.last_step_tokens)
                self.step_seconds.observe(stats.last_step_s)
            self.stats = stats
            for output in outputs:
                life = self._lives.get(output.request_id)
                if life is None:
                    continue
                if output.num_output_tokens > life.num_tokens:
                    life.num_tokens = output.num_output_tokens
                    if life.last_token_s is None:
                        self._first_token(output, now_s - life.arrived_s)
                    else:
                        gap_s = now_s - life.last_token_s
                        gaps[gap_s] = gaps.get(gap_s, 0) + 1
                    life.last_token_s = now_s
                if output.finish_reason is not None:
                    del self._lives[output.request_id]
                    self._ended(output, life, now_s)
            # most sequences had their last token in the same step
            between = self.histograms["inter_token_latency_seconds"]
            for gap_s, count in gaps.items():
                between.observe(gap_s, count)

    def snapshot(self) -> Snapshot:
        """Return a copy that can be read at leisure."""
        with self._lock:
            return Snapshot(
                self.stats,
                dict(self.refusals),
                self.num_prompt_tokens,
                self.num_cached_tokens,
                self.num_live,
                {name: histogram.copy() for name, histogram in self.histograms.items()},
                self.step_seconds.copy(),
            )

    def _first_token(self, output: StepOutput, seconds: float) -> None:
        self.num_prompt_tokens += output.num_prompt_tokens
        self.num_cached_tokens += output.num_cached_tokens
        self._observe("time_to_first_token_seconds", seconds)

    def _ended(self, output: StepOutput, life: _Life, now_s: float) -> None:
        if output.refusal is not None:
            self.refusals[output.refusal.reason] += 1
            return
        num_tokens = output.num_output_tokens
        self._observe("e2e_request_latency_seconds", now_s - life.arrived_s)
        self._observe("request_queue_time_seconds", output.queue_s)
        self._observe("request_prompt_tokens", output.num_prompt_tokens)
        self._observe("request_generation_tokens", num_tokens)
        self._observe("request_max_num_generation_tokens", num_tokens)
        self._observe("request_params_max_tokens", life.max_tokens)
        self._observe("request_num_preemptions", output.num_preemptions)
        if num_tokens > 0:
            self._observe("request_prefill_time_seconds", output.prefill_s)
            self._observe("request_decode_time_seconds", output.decode_s)
            self._observe("request_inference_time_seconds", output.prefill_s + output.decode_s)
        if num_tokens > 1:
            mean_s = output.decode_s / (num_tokens - 1)
            self._observe("request_time_per_output_token_seconds", mean_s)

    def _observe(self, name: str, value: float) -> None:
        self.histograms[name].observe(value)


class EngineCollector(Collector):
    """Answers a scrape from the metrics of one engine."""

    def __init__(self, metrics: EngineMetrics, model_name: str, config: EngineConfig) -> None:
        self._metrics = metrics
        self._labels = {"model_name": model_name, "engine": ENGINE}
        self._config = config

    def collect(self) -> list[Metric]:
        """Return all families as they are now."""
        now = self._metrics.snapshot()
        return [*self._of_vllm(now), *self._of_ours(now)]

    def _of_vllm(self, now: Snapshot) -> Iterator[Metric]:
        stats, labels = now.stats, self._labels
        for each in _GAUGES:
            yield _gauge(each.name, each.text, labels, each.read(stats))
        for family in _GAUGE_FAMILIES:
            yield _gauges(family.name, family.text, labels, family.label, family.read(stats))
        yield _gauge(
            "vllm:cache_config_info", "The KV cache", labels | self._cache_labels(stats), 1
        )
        for each in _COUNTERS:
            yield _counter(each.name, each.text, labels, each.read(stats))
        for family in _COUNTER_FAMILIES:
            yield _counters(family.name, family.text, labels, family.label, family.read(stats))
        yield _counter("vllm:prompt_tokens", "Prompt tokens", labels, now.num_prompt_tokens)
        yield _counter("vllm:prompt_tokens_cached", "From the cache", labels, now.num_cached_tokens)
        yield _counters("vllm:admission_rejections", "Refusals", labels, "reason", now.refusals)
        for described in _HISTOGRAMS:
            histogram = HistogramMetricFamily(
                f"vllm:{described.name}", described.text, labels=list(labels)
            )
            kept = now.histograms[described.name]
            histogram.add_metric(list(labels.values()), kept.buckets(), kept.sum)
            yield histogram

    def _of_ours(self, now: Snapshot) -> Iterator[Metric]:
        stats, prefix = now.stats, "infermesh_generator_"
        for each in _OWN_GAUGES:
            yield _gauge(prefix + each.name, each.text, {}, each.read(stats))
        for each in _OWN_COUNTERS:
            yield _counter(prefix + each.name, each.text, {}, each.read(stats))
        yield _gauge(prefix + "live_sequences", "Not ended yet", {}, now.num_live)
        blocks = {
            "free": stats.num_blocks_free,
            "cached": stats.num_blocks_cached,
            "used": stats.num_blocks_used,
        }
        yield _gauges(prefix + "kv_blocks", "KV blocks by state", {}, "state", blocks)
        ends = {reason.value: stats.outcomes.get(reason, 0) for reason in _REASONS}
        ends[FinishReason.REJECTED.value] = sum(now.refusals.values())
        yield _counters(prefix + "jobs", "Sequences by their end", {}, "outcome", ends)
        tokens = {
            "prompt": now.num_prompt_tokens,
            "cached": now.num_cached_tokens,
            "completion": stats.num_generated_tokens,
        }
        yield _counters(prefix + "tokens", "Tokens by kind", {}, "kind", tokens)
        steps = HistogramMetricFamily(prefix + "step_seconds", "Time of a step")
        steps.add_metric([], now.step_seconds.buckets(), now.step_seconds.sum)
        yield steps
        stages = HistogramMetricFamily(
            prefix + "stage_seconds", "Time of a sequence in each stage", labels=["stage"]
        )
        for stage in _STAGES:
            kept = now.histograms[f"request_{stage}_time_seconds"]
            stages.add_metric([stage], kept.buckets(), kept.sum)
        yield stages

    def _cache_labels(self, stats: EngineStats) -> dict[str, str]:
        return {
            "block_size": str(self._config.block_size),
            "num_gpu_blocks": str(stats.num_blocks_total),
            "cache_dtype": self._config.dtype or "auto",
            "enable_prefix_caching": str(self._config.prefix_caching),
        }


def _gauge(name: str, text: str, labels: Mapping[str, str], value: float) -> Metric:
    family = GaugeMetricFamily(name, text, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family


def _gauges(
    name: str, text: str, labels: Mapping[str, str], label: str, values: Mapping[str, float]
) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[*labels, label])
    for key, value in values.items():
        family.add_metric([*labels.values(), key], value)
    return family


def _counter(name: str, text: str, labels: Mapping[str, str], value: float) -> Metric:
    family = CounterMetricFamily(name, text, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family


def _counters(
    name: str, text: str, labels: Mapping[str, str], label: str, values: Mapping[str, float]
) -> Metric:
    family = CounterMetricFamily(name, text, labels=[*labels, label])
    for key, value in values.items():
        family.add_metric([*labels.values(), key], value)
    return family
