"""A run's figures: latencies of all requests, failures among them, and who used the processor."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from bench.common.figures import percentile
from bench.service.load import Report


@dataclass(frozen=True, slots=True)
class Figures:
    """Times in seconds; processor time of each service in milliseconds per request.

    A failed request's first token comes never: it counts among the percentiles as infinite. Time
    per output token is one request's mean after its first; `gap` is between two events with text.
    """

    num_requests: int
    failures: Mapping[str, int]
    ttft_p50_s: float
    ttft_p99_s: float
    tpot_p50_s: float
    tpot_p99_s: float
    gap_p99_s: float
    tokens_per_s: float
    tokens_per_request: float
    cached_share: float
    num_cache_hits: int
    late_p99_s: float
    client_cpu_share: float
    cpu_ms_per_request: Mapping[str, float]

    @classmethod
    def of(cls, report: Report, cpu_s: Mapping[str, float]) -> "Figures":
        """Take them from a run, in which each service used `cpu_s` of a processor."""
        answers = report.answers
        whole = [answer for answer in answers if not answer.fault]
        num_tokens = sum(answer.num_tokens for answer in whole)
        num_prompt = sum(answer.num_prompt_tokens for answer in whole)
        firsts = [answer.first_token_s for answer in answers]
        per_token = [each for answer in whole if (each := answer.per_token_s) is not None]
        gaps = [late - early for answer in whole for early, late in pairwise(answer.texts_s)]
        return cls(
            num_requests=len(answers),
            failures=dict(Counter(answer.fault for answer in answers if answer.fault)),
            ttft_p50_s=percentile(firsts, 0.5),
            ttft_p99_s=percentile(firsts, 0.99),
            tpot_p50_s=percentile(per_token, 0.5),
            tpot_p99_s=percentile(per_token, 0.99),
            gap_p99_s=percentile(gaps, 0.99),
            tokens_per_s=num_tokens / report.wall_s,
            tokens_per_request=num_tokens / max(1, len(whole)),
            cached_share=sum(answer.num_cached_tokens for answer in whole) / max(1, num_prompt),
            num_cache_hits=sum(answer.is_cache_hit for answer in whole),
            late_p99_s=percentile([answer.late_s for answer in answers], 0.99),
            client_cpu_share=report.cpu_s / report.wall_s,
            cpu_ms_per_request={
                name: seconds * 1e3 / max(1, len(answers)) for name, seconds in cpu_s.items()
            },
        )

    def meets(self, ttft_p99_s: float, tpot_p99_s: float) -> bool:
        """Return whether nothing failed and both percentiles are below these."""
        fast = self.ttft_p99_s < ttft_p99_s and self.tpot_p99_s < tpot_p99_s
        return fast and not self.failures

    def fields(self) -> dict[str, Any]:
        """Return everything for JSON, which knows no infinity."""
        fields = asdict(self)
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in fields.items()
        }

    def line(self) -> str:
        """Return the latencies and what failed, under HEADING."""
        failed = ", ".join(f"{count} {name}" for name, count in self.failures.items()) or "0"
        cells = [
            f"{self.num_requests:8d}",
            f"{self.tokens_per_s:10.0f}",
            f"{self.ttft_p50_s * 1e3:9.0f} / {self.ttft_p99_s * 1e3:6.0f}",
            f"{self.tpot_p50_s * 1e3:9.1f} / {self.tpot_p99_s * 1e3:6.1f}",
            f"{self.gap_p99_s * 1e3:8.1f}",
            f"{self.client_cpu_share:8.1%}",
        ]
        return f"{'  '.join(cells)}  {failed}"

    def used(self) -> str:
        """Return the processor time of a request by process, in milliseconds."""
        parts = [f"{name} {ms:.1f}" for name, ms in self.cpu_ms_per_request.items()]
        return f"{sum(self.cpu_ms_per_request.values()):.1f} ms a request: {', '.join(parts)}"


HEADING = (
    f"{'requests':>8}  {'tokens/s':>10}  {'TTFT p50 / p99, ms':>18}  {'TPOT p50 / p99, ms':>18}"
    f"  {'gap p99':>8}  {'client':>8}  failed"
)
