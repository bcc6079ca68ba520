"""Traffic like a real service's: how long requests are and when they come.

Reads the Azure LLM inference traces (github.com/Azure/AzurePublicDataset, 2023; Patel et al.,
"Splitwise", ISCA 2024): one row per request with TIMESTAMP, ContextTokens and GeneratedTokens.
"""

import csv
import math
import random
from collections.abc import Sequence
from datetime import datetime
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

# mean and deviation of the logarithms, and the longest, in the 19,366 rows of azure_2023_conv.csv
_PROMPT_LOG, _MAX_PROMPT = (6.633, 0.985), 14_050
_OUTPUT_LOG, _MAX_OUTPUT = (5.019, 0.859), 1_000


class Visit(NamedTuple):
    """One request: when it comes, and how many tokens it brings and takes."""

    arrival_s: float
    num_prompt_tokens: int
    num_output_tokens: int


def read(path: Path, count: int) -> list[Visit]:
    """Return the first `count` rows; arrivals count from the first."""
    with path.open() as file:
        rows = [row for _, row in zip(range(count), csv.DictReader(file), strict=False)]
    # seven decimals are one too many for a datetime
    times = [datetime.fromisoformat(row["TIMESTAMP"][:26]) for row in rows]
    return [
        Visit(
            (time - times[0]).total_seconds(),
            int(row["ContextTokens"]),
            int(row["GeneratedTokens"]),
        )
        for time, row in zip(times, rows, strict=True)
    ]


def conversation(count: int, seed: int = 0) -> list[Visit]:
    """Return lognormal lengths as fitted to the conversation trace, and Poisson arrivals at 1/s."""
    rng = random.Random(seed)
    arrivals = accumulate(rng.expovariate(1.0) for _ in range(count))
    return [
        Visit(
            arrival_s,
            min(math.ceil(rng.lognormvariate(*_PROMPT_LOG)), _MAX_PROMPT),
            min(math.ceil(rng.lognormvariate(*_OUTPUT_LOG)), _MAX_OUTPUT),
        )
        for arrival_s in arrivals
    ]


def shrink(visits: Sequence[Visit], divisor: int, context_length: int) -> list[Visit]:
    """Divide all lengths, rounded up; what is still longer than the context is cut to fit."""
    shrunk = []
    for visit in visits:
        num_output = min(-(-visit.num_output_tokens // divisor), context_length // 2)
        num_prompt = min(-(-visit.num_prompt_tokens // divisor), context_length - num_output)
        shrunk.append(Visit(visit.arrival_s, num_prompt, num_output))
    return shrunk


def at_rate(visits: Sequence[Visit], requests_per_s: float) -> list[Visit]:
    """Stretch the arrivals evenly, bursts included, to a mean rate."""
    first_s, last_s = visits[0].arrival_s, visits[-1].arrival_s
    factor = (len(visits) - 1) / requests_per_s / (last_s - first_s)
    return [visit._replace(arrival_s=(visit.arrival_s - first_s) * factor) for visit in visits]
