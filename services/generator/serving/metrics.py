"""What is measured of every sequence and step.

Counters and gauges are read off the engine's latest stats when somebody scrapes; only the
histograms, which no reading can give, are kept up once per step.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from services.generator.engine import EngineStats, StepOutput
from services.generator.serving.histogram import Histogram
from services.generator.serving.metric_definitions import HISTOGRAMS, SECONDS


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
        self.histograms = {each.name: Histogram(each.bounds) for each in HISTOGRAMS}
        self.step_seconds = Histogram(SECONDS)
        self._clock = clock
        self._lock = threading.Lock()
        self._lives: dict[str, _Life] = {}

    @property
    def num_live(self) -> int:
        """Sequences that have not ended."""
        return len(self._lives)

    def arrived(self, request_id: str, max_tokens: int) -> None:
        """Note that a sequence was taken."""
        self._lives[request_id] = _Life(self._clock(), max_tokens)

    def refused(self, reason: str) -> None:
        """Count a sequence that was not taken."""
        with self._lock:
            self.refusals[reason] += 1

    def stepped(self, outputs: Iterable[StepOutput], stats: EngineStats, now_s: float) -> None:
        """Take the outputs of a step that ended at `now_s`, and the counters after it."""
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
