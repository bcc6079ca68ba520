"""A scrape of the metrics: vLLM's names and labels, and values that add up."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from services.generator.engine import FinishReason, QueueFullError
from services.generator.serving.bridge import EngineBridge
from services.generator.serving.collector import EngineCollector
from tests.generator.serving.tiny_bridge import bridged, submission
from tests.generator.tiny import Ear
from tests.waiting import until

LABELS = {"model_name": "tiny", "engine": "0"}
GAUGES = [
    "num_requests_running",
    "num_requests_waiting",
    "num_requests_waiting_by_reason",
    "kv_cache_usage_perc",
    "cache_config_info",
]
COUNTERS = [
    "prefix_cache_queries",
    "prefix_cache_hits",
    "num_preemptions",
    "prompt_tokens",
    "prompt_tokens_cached",
    "generation_tokens",
    "request_success",
    "spec_decode_num_drafts",
    "spec_decode_num_draft_tokens",
    "spec_decode_num_accepted_tokens",
    "spec_decode_num_accepted_tokens_per_pos",
    "admission_rejections",
]
HISTOGRAMS = [
    "request_prompt_tokens",
    "request_generation_tokens",
    "iteration_tokens_total",
    "request_params_max_tokens",
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "request_time_per_output_token_seconds",
    "e2e_request_latency_seconds",
    "request_queue_time_seconds",
    "request_inference_time_seconds",
    "request_prefill_time_seconds",
    "request_decode_time_seconds",
    "request_num_preemptions",
    "request_max_num_generation_tokens",
]


class Scrape:
    """What Prometheus reads, by sample name and labels."""

    def __init__(self, bridge: EngineBridge) -> None:
        registry = CollectorRegistry()
        registry.register(EngineCollector(bridge.metrics, "tiny", bridge.engine.config))
        self.text = generate_latest(registry).decode()
        self.families = {f.name: f for f in text_string_to_metric_families(self.text)}

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels."""
        return sum(s.value for s in self._samples(name) if labels.items() <= s.labels.items())

    def vllm(self, name: str, **labels: str) -> float:
        return self.value(f"vllm:{name}", **labels)

    def own(self, name: str, **labels: str) -> float:
        return self.value(f"infermesh_generator_{name}", **labels)

    def _samples(self, name: str) -> Iterator[Any]:
        found = [s for f in self.families.values() for s in f.samples if s.name == name]
        assert found, f"no sample {name}"
        return iter(found)


async def serve(bridge: EngineBridge) -> dict[str, FinishReason]:
    """Three requests of one prompt, one after the other, and one that is aborted."""
    ear = Ear()
    for name in "abc":
        bridge.submit(submission(name, prompt=tuple(range(40)), max_tokens=8), ear)
        await until(lambda n=name: n in ear.ends())
    bridge.submit(submission("d", max_tokens=250), ear)
    await until(lambda: len(ear.tokens("d")) > 1)
    bridge.abort("d")
    await until(lambda: "d" in ear.ends())
    return ear.ends()  # type: ignore[return-value]


async def test_every_name_of_vllm_has_its_type_and_labels(checkpoint: Path) -> None:
    """Boards that were made for vLLM find what they ask for, even before the first request."""
    async with bridged(checkpoint) as bridge:
        for scrape in (Scrape(bridge), await serve(bridge) and Scrape(bridge)):
            kinds = {n: f.type for n, f in scrape.families.items() if n.startswith("vllm:")}
            assert kinds == {
                **{f"vllm:{name}": "gauge" for name in GAUGES},
                **{f"vllm:{name}": "counter" for name in COUNTERS},
                **{f"vllm:{name}": "histogram" for name in HISTOGRAMS},
            }
            for name in kinds:
                for sample in scrape.families[name].samples:
                    assert sample.labels.items() >= LABELS.items()


async def test_the_counts_add_up(checkpoint: Path) -> None:
    """Requests, their tokens and the prefix hits are those that were served."""
    async with bridged(checkpoint) as bridge:
        await serve(bridge)
        scrape, stats = Scrape(bridge), bridge.engine.stats()
        assert scrape.vllm("request_success_total", finished_reason="length") == 3
        assert scrape.vllm("request_success_total", finished_reason="abort") == 1
        assert scrape.vllm("request_success_total") == 4
        assert scrape.vllm("prompt_tokens_total") == 3 * 40 + 3
        assert scrape.vllm("prefix_cache_queries_total") == 3 * 40 + 3
        assert scrape.vllm("prefix_cache_hits_total") == 2 * 32
        assert scrape.vllm("prompt_tokens_cached_total") == 2 * 32
        assert scrape.vllm("generation_tokens_total") == stats.num_generated_tokens >= 25
        assert scrape.vllm("num_preemptions_total") == 0
        assert scrape.vllm("num_requests_running") == scrape.vllm("num_requests_waiting") == 0
        assert scrape.vllm("kv_cache_usage_perc") == 0.0
        assert scrape.vllm("cache_config_info", block_size="16", enable_prefix_caching="True") == 1
        assert f'num_gpu_blocks="{stats.num_blocks_total}"' in scrape.text


async def test_the_histograms_add_up(checkpoint: Path) -> None:
    """One value per request, per step or per gap, and their sums are the totals."""
    async with bridged(checkpoint) as bridge:
        await serve(bridge)
        scrape, stats = Scrape(bridge), bridge.engine.stats()
        of_requests = [n for n in HISTOGRAMS if n.startswith(("request", "e2e", "time"))]
        for name in of_requests:
            assert scrape.vllm(f"{name}_count") == 4, name
            assert scrape.vllm(f"{name}_bucket", le="+Inf") == 4, name
        assert scrape.vllm("request_prompt_tokens_sum") == 3 * 40 + 3
        generated = stats.num_generated_tokens
        assert scrape.vllm("request_generation_tokens_sum") == generated
        assert scrape.vllm("inter_token_latency_seconds_count") == generated - 4
        assert scrape.vllm("request_params_max_tokens_sum") == 3 * 8 + 250
        assert scrape.vllm("iteration_tokens_total_count") == stats.num_steps
        assert scrape.vllm("iteration_tokens_total_sum") == stats.num_computed_tokens
        assert scrape.vllm("request_generation_tokens_bucket", le="10.0") >= 3
        stages = ("queue", "prefill", "decode")
        whole = sum(scrape.vllm(f"request_{stage}_time_seconds_sum") for stage in stages)
        assert 0 < whole <= scrape.vllm("e2e_request_latency_seconds_sum")
        assert scrape.vllm("request_inference_time_seconds_sum") == pytest.approx(
            whole - scrape.vllm("request_queue_time_seconds_sum")
        )


async def test_our_own_names_add_up(checkpoint: Path) -> None:
    """What is not in vLLM has our prefix: blocks by state, waste, waits, steps."""
    async with bridged(checkpoint) as bridge:
        await serve(bridge)
        scrape, stats = Scrape(bridge), bridge.engine.stats()
        assert scrape.own("jobs_total", outcome="length") == 3
        assert scrape.own("jobs_total") == 4
        assert scrape.own("tokens_total", kind="completion") == stats.num_generated_tokens
        assert scrape.own("kv_blocks") == stats.num_blocks_total
        assert scrape.own("live_sequences") == 0
        assert scrape.own("steps_total") == scrape.own("step_seconds_count") == stats.num_steps
        assert scrape.own("stage_seconds_count", stage="prefill") == 4
        for name in ("preemptions_total", "prefix_waits_total", "faults_total", "kv_waste_ratio"):
            assert scrape.own(name) == 0
        assert scrape.own("expected_wait_seconds") == stats.expected_wait_s
        assert scrape.own("drain_tokens_per_second") == stats.drain_tokens_per_s


async def test_live_sequences_are_seen(checkpoint: Path) -> None:
    """While sequences run, the gauges tell how many and what they hold."""
    async with bridged(checkpoint) as bridge:
        ear = Ear()
        for name in "ab":
            bridge.submit(submission(name, max_tokens=250), ear)
        await until(lambda: ear.tokens("a") and ear.tokens("b"))
        scrape = Scrape(bridge)
        assert scrape.vllm("num_requests_running") == scrape.own("live_sequences") == 2
        assert scrape.vllm("kv_cache_usage_perc") > 0
        assert 0 <= scrape.own("kv_waste_ratio") < 1
        for name in "ab":
            bridge.abort(name)


async def test_refusals_are_counted_by_reason(checkpoint: Path) -> None:
    """Those of the engine's queue and those without room; neither is a request that ended."""
    async with bridged(checkpoint, max_live=1) as bridge:
        ear = Ear()
        bridge.submit(submission("a", max_tokens=250), ear)
        assert not bridge.submit(submission("b"), ear)
        bridge.abort("a")
        await until(lambda: "a" in ear.ends())

        def full(*_: object, **__: object) -> None:
            raise QueueFullError("max_queued_tokens", 2.0)

        bridge.engine.add = full  # type: ignore[method-assign]
        bridge.submit(submission("c"), ear)
        await until(lambda: "c" in ear.ends())
        scrape = Scrape(bridge)
        assert scrape.vllm("admission_rejections_total", reason="no_room") == 1
        assert scrape.vllm("admission_rejections_total", reason="max_queued_tokens") == 1
        assert scrape.own("jobs_total", outcome="rejected") == 2
        assert scrape.vllm("e2e_request_latency_seconds_count") == 1


async def test_a_scrape_may_come_from_another_thread(checkpoint: Path) -> None:
    """Scrapes in between steps see each request once or not at all."""
    async with bridged(checkpoint) as bridge:
        ear = Ear()
        for number in range(8):
            bridge.submit(submission(f"r{number}", max_tokens=30), ear)
        while len(ear.ends()) < 8:
            scrape = await asyncio.to_thread(Scrape, bridge)
            ended = scrape.vllm("request_success_total")
            assert scrape.vllm("e2e_request_latency_seconds_count") == ended
            assert scrape.own("live_sequences") == 8 - ended
