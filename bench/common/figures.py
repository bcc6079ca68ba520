"""What token moments say: speed, time to first token, time per output token. No I/O, no clock."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Figures:
    """One run of one engine; times in seconds, from when the prompts were handed over.

    Time per output token is the gap between two tokens of one request, all requests pooled; its
    mean is taken over requests, of what each needed per token after its first.
    """

    num_tokens: int
    wall_s: float
    tokens_per_s: float
    ttft_p50_s: float
    ttft_p99_s: float
    tpot_p50_s: float
    tpot_p99_s: float
    tpot_mean_s: float

    @classmethod
    def of(cls, start_s: float, times_s: Sequence[Sequence[float]]) -> "Figures":
        """Take them from each request's token moments, which ascend and are never empty."""
        ends = [times[-1] for times in times_s]
        firsts = [times[0] - start_s for times in times_s]
        gaps = [late - early for times in times_s for early, late in pairwise(times)]
        means = [(t[-1] - t[0]) / (len(t) - 1) for t in times_s if len(t) > 1]
        num_tokens = sum(len(times) for times in times_s)
        wall_s = max(ends) - start_s
        return cls(
            num_tokens=num_tokens,
            wall_s=wall_s,
            tokens_per_s=num_tokens / wall_s,
            ttft_p50_s=percentile(firsts, 0.5),
            ttft_p99_s=percentile(firsts, 0.99),
            tpot_p50_s=percentile(gaps, 0.5),
            tpot_p99_s=percentile(gaps, 0.99),
            tpot_mean_s=sum(means) / len(means) if means else math.nan,
        )


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that `share` of them do not exceed (nearest rank); NaN of none."""
    if not values:
        return math.nan
    return sorted(values)[max(math.ceil(share * len(values)), 1) - 1]


def floor_share(linear_bytes: float, bytes_per_s: float, tpot_s: float) -> float:
    """Return how near one sequence's decode comes to reading the linear weights and nothing else.

    1 is the floor: each token takes what reading `linear_bytes` once takes.
    """
    return linear_bytes / bytes_per_s / tpot_s
