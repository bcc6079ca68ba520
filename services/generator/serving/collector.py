"""The engine's metrics as Prometheus scrapes them: counters and gauges are read off a snapshot."""

from collections.abc import Iterator, Mapping

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from services.generator.engine import EngineConfig, EngineStats, FinishReason
from services.generator.serving.histogram import Histogram
from services.generator.serving.metric_definitions import (
    COUNTER_FAMILIES,
    COUNTERS,
    GAUGE_FAMILIES,
    GAUGES,
    HISTOGRAMS,
    OWN_COUNTERS,
    OWN_GAUGES,
    REASONS,
)
from services.generator.serving.metrics import EngineMetrics, Snapshot

# vLLM's label of a data-parallel rank; each of our replicas is a process with one engine
ENGINE = "0"
_STAGES = ("queue", "prefill", "decode")


class EngineCollector(Collector):
    """Answers a scrape from the metrics of one engine."""

    def __init__(
        self,
        metrics: EngineMetrics,
        model_name: str,
        config: EngineConfig,
        cpu_labels: Mapping[str, str] | None = None,
    ) -> None:
        """`cpu_labels` are `level` and `weights`, where a CPU computes."""
        self._metrics = metrics
        self._labels = {"model_name": model_name, "engine": ENGINE}
        self._config = config
        self._cpu_labels = cpu_labels

    def collect(self) -> list[Metric]:
        """Return all families as they are now."""
        now = self._metrics.snapshot()
        return [*self._of_vllm(now), *self._of_ours(now)]

    def _of_vllm(self, now: Snapshot) -> Iterator[Metric]:
        stats, labels = now.stats, self._labels
        for each in GAUGES:
            yield _gauge(each.name, each.text, labels, each.read(stats))
        for family in GAUGE_FAMILIES:
            yield _gauges(family.name, family.text, labels, family.label, family.read(stats))
        yield _gauge(
            "vllm:cache_config_info", "The KV cache", labels | self._cache_labels(stats), 1
        )
        for each in COUNTERS:
            yield _counter(each.name, each.text, labels, each.read(stats))
        for family in COUNTER_FAMILIES:
            yield _counters(family.name, family.text, labels, family.label, family.read(stats))
        yield _counter("vllm:prompt_tokens", "Prompt tokens", labels, now.num_prompt_tokens)
        yield _counter("vllm:prompt_tokens_cached", "From the cache", labels, now.num_cached_tokens)
        yield _counters("vllm:admission_rejections", "Refusals", labels, "reason", now.refusals)
        for definition in HISTOGRAMS:
            histogram = now.histograms[definition.name]
            yield _histogram(f"vllm:{definition.name}", definition.text, labels, histogram)

    def _of_ours(self, now: Snapshot) -> Iterator[Metric]:
        stats, prefix = now.stats, "infermesh_generator_"
        for each in OWN_GAUGES:
            yield _gauge(prefix + each.name, each.text, {}, each.read(stats))
        for each in OWN_COUNTERS:
            yield _counter(prefix + each.name, each.text, {}, each.read(stats))
        if self._cpu_labels:
            yield _gauge(prefix + "cpu_level", "The kernels that serve", self._cpu_labels, 1)
        yield _gauge(prefix + "live_sequences", "Not ended yet", {}, now.num_live)
        blocks = {
            "free": stats.num_blocks_free,
            "cached": stats.num_blocks_cached,
            "used": stats.num_blocks_used,
        }
        yield _gauges(prefix + "kv_blocks", "KV blocks by state", {}, "state", blocks)
        ends = {reason.value: stats.outcomes.get(reason, 0) for reason in REASONS}
        ends[FinishReason.REJECTED.value] = sum(now.refusals.values())
        yield _counters(prefix + "jobs", "Sequences by their end", {}, "outcome", ends)
        tokens = {
            "prompt": now.num_prompt_tokens,
            "cached": now.num_cached_tokens,
            "completion": stats.num_generated_tokens,
        }
        yield _counters(prefix + "tokens", "Tokens by kind", {}, "kind", tokens)
        yield _histogram(prefix + "step_seconds", "Time of a step", {}, now.step_seconds)
        stages = HistogramMetricFamily(
            prefix + "stage_seconds", "Time of a sequence in each stage", labels=["stage"]
        )
        for stage in _STAGES:
            histogram = now.histograms[f"request_{stage}_time_seconds"]
            stages.add_metric([stage], histogram.buckets(), histogram.sum)
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


def _histogram(name: str, text: str, labels: Mapping[str, str], values: Histogram) -> Metric:
    family = HistogramMetricFamily(name, text, labels=list(labels))
    family.add_metric(list(labels.values()), values.buckets(), values.sum)
    return family
