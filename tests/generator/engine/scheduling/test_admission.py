"""Whether one more request may run: the peak that it would cause, and what that prevents."""

import csv
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.generator.engine.kv.block_pool import BlockPool
from services.generator.engine.kv.prefix_sharing import PrefixSharing
from services.generator.engine.request import Request
from services.generator.engine.sampling_params import SamplingParams
from services.generator.engine.scheduling.admission import (
    Admission,
    Demand,
    OutputLengths,
    peak_blocks,
)
from services.generator.engine.scheduling.queues import RequestQueues
from services.generator.engine.scheduling.scheduler import Scheduler
from tests.generator.engine import trace

MakeRequest = Callable[..., Request]


@settings(deadline=None)
@given(st.lists(st.builds(Demand, st.integers(0, 50), st.integers(1, 30)), max_size=8))
def test_the_peak_is_that_of_a_simulation(demands: list[Demand]) -> None:
    """The closed form finds what stepping through the lives one token at a time finds."""
    simulated = max(
        (
            sum(d.num_tokens + step for d in demands if d.num_remaining >= step)
            for step in range(1, 31)
        ),
        default=0,
    )
    assert peak_blocks(demands, block_size=1) == simulated


def test_without_history_the_worst_is_expected() -> None:
    """Until an output has ended, max_tokens is what a request may add."""
    assert OutputLengths(0.5).expected_remaining(3, 10) == 7


def test_the_expected_length_is_conditional() -> None:
    """Only outputs longer than what a request has already count for it; max_tokens bounds it."""
    lengths = OutputLengths(0.5)
    for length in (2, 4, 6, 8, 10):
        lengths.observe(length)
    assert lengths.expected_remaining(0, 100) == 6
    assert lengths.expected_remaining(6, 100) == 4
    assert lengths.expected_remaining(10, 100) == 90
    assert lengths.expected_remaining(0, 3) == 3


def test_old_lengths_are_forgotten() -> None:
    """The window follows a change of the traffic."""
    lengths = OutputLengths(0.5)
    for length in [500] * 1000 + [5] * 1000:
        lengths.observe(length)
    assert lengths.expected_remaining(0, 1000) == 5


def admission_to(pool: BlockPool) -> Admission:
    return Admission(pool, OutputLengths(0.5), PrefixSharing(pool, True), RequestQueues(8))


def test_a_shared_prefix_is_counted_once(make_request: MakeRequest) -> None:
    """Requests over one long prefix fit together although their lengths add up to more."""
    pool = BlockPool(12, 4)
    admission = admission_to(pool)
    params = SamplingParams(max_tokens=4)
    first, second = make_request(range(33), params=params), make_request(range(33), params=params)
    first.block_ids = pool.allocate(9)
    assert admission.fits(second, first.block_ids[:8], [first])
    assert not admission.fits(second, [], [first])


def test_a_request_alone_always_fits(make_request: MakeRequest) -> None:
    """Expectations never keep the pool idle."""
    pool = BlockPool(2, 4)
    request = make_request(range(4), params=SamplingParams(max_tokens=100))
    assert admission_to(pool).fits(request, [], [])


def finish(num_blocks: int, quantile: float, seed: int, per_step: float) -> tuple[int, Scheduler]:
    lengths = trace.conversation(seed, 120, median_prompt=100, median_output=100)
    scheduler = Scheduler(BlockPool(num_blocks, 16), 32, 128, output_quantile=quantile)
    return trace.run(scheduler, trace.requests(lengths, 1000), per_step), scheduler


def test_expecting_the_peak_prevents_thrashing() -> None:
    """At a steady load near capacity: a fraction of greedy's preemptions, in as many steps."""
    greedy = [finish(160, 0.0, seed, per_step=0.05) for seed in range(4)]
    ours = [finish(160, 0.4, seed, per_step=0.05) for seed in range(4)]
    num_greedy = sum(scheduler.preemption.num_preemptions for _, scheduler in greedy)
    assert num_greedy >= 10
    assert sum(scheduler.preemption.num_preemptions for _, scheduler in ours) <= num_greedy / 2
    assert sum(steps for steps, _ in ours) <= 1.01 * sum(steps for steps, _ in greedy)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_burst_does_not_thrash(seed: int) -> None:
    """When all come at once, a third of greedy's recomputed tokens for some more steps."""
    greedy_steps, greedy = finish(160, 0.0, seed, per_step=120)
    steps, ours = finish(160, 0.4, seed, per_step=120)
    assert greedy.preemption.num_preempted_tokens > 2000
    assert ours.preemption.num_preempted_tokens < greedy.preemption.num_preempted_tokens / 3
    assert steps <= 1.15 * greedy_steps


def azure_lengths() -> list[trace.Lengths]:
    """The first rows of the real CSV where AZURE_TRACE names it, else a sample of like shape."""
    path = os.environ.get("AZURE_TRACE")
    if path is None:
        return trace.conversation(7, 100)
    with Path(path).open() as file:
        rows = [row for _, row in zip(range(400), csv.DictReader(file), strict=False)]
    return [trace.Lengths(int(r["ContextTokens"]), int(r["GeneratedTokens"])) for r in rows]


def test_little_of_the_kv_cache_is_wasted() -> None:
    """With conversation lengths less than 4 % of the used blocks' slots are empty on average."""
    scheduler = Scheduler(BlockPool(2000, 16), 64, 512)
    wastes: list[float] = []

    def note() -> None:
        if scheduler.pool.num_used:
            wastes.append(scheduler.blocks.waste(scheduler.running))

    trace.run(scheduler, trace.requests(azure_lengths(), 1000), 0.2, note)
    assert 0.0 < sum(wastes) / len(wastes) < 0.04
