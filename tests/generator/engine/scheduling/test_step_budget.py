"""The token budget of a step, and the streams whose gaps it keeps short during a long prompt."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from services.generator.engine import Engine, EngineConfig, SamplingParams
from services.generator.engine.chunk import Chunk, ChunkResult
from services.generator.engine.kv.block_pool import BlockPool
from services.generator.engine.scheduling.step_budget import (
    MIN_PROMPT_TOKENS,
    StepBudget,
    TokenLimit,
)
from services.generator.engine.scheduling.step_time import StepTime
from tests.generator.engine.fake_executor import FakeExecutor
from tests.generator.engine.scheduling.step_times import TRUTH, duration_s, request
from tests.generator.shape import shape

MODEL = shape(vocab_size=50, max_position_embeddings=8192)


class TimedExecutor(FakeExecutor):
    """Lets its own clock go on by what a step would cost, with five percent of noise."""

    def __init__(self) -> None:
        super().__init__(16)
        self.now_s = 0.0
        self._rng = random.Random(0)

    def execute(self, chunks: Sequence[Chunk], overlap: Callable[[], object]) -> list[ChunkResult]:
        overlap()
        self.now_s += duration_s(TRUTH, chunks) * self._rng.uniform(0.95, 1.05)
        return [ChunkResult((1,) if chunk.samples else ()) for chunk in chunks]


def streaming(
    target_step_s: float | None, num_prompt_tokens: int = 200
) -> tuple[Engine, TimedExecutor]:
    """Eight streams that decode, and a model of the step time that has settled."""
    executor = TimedExecutor()
    config = EngineConfig(
        Path("unused"), max_num_seqs=16, max_batched_tokens=2048, target_step_s=target_step_s
    )
    engine = Engine(config, MODEL, executor, BlockPool(2000, 16), clock=lambda: executor.now_s)
    for index in range(8):
        params = SamplingParams(2000, temperature=0)
        engine.add(str(index), [index] * num_prompt_tokens, params)
    for _ in range(100):
        engine.step()
    return engine, executor


def longest_gap(target_step_s: float | None, num_prompt_tokens: int = 200) -> tuple[float, int]:
    """Let a 4,000-token prompt come to the streams; longest gap over idle gap, and its steps."""
    engine, executor = streaming(target_step_s, num_prompt_tokens)
    begun_s = executor.now_s
    for _ in range(100):
        engine.step()
    idle_s = (executor.now_s - begun_s) / 100
    engine.add("long", [9] * 4000, SamplingParams(1))
    longest_s, num_steps, is_done = 0.0, 0, False
    while not is_done:
        before_s = executor.now_s
        outputs = engine.step()
        assert len(outputs) >= 8, "every stream gets its token in every step"
        is_done = any(output.request_id == "long" for output in outputs)
        longest_s = max(longest_s, executor.now_s - before_s)
        num_steps += 1
        engine.check()
    return longest_s / idle_s, num_steps


@pytest.mark.parametrize("target_step_s", [None, 2 * 0.036])
def test_the_gaps_of_streams_stay_short_while_a_long_prompt_arrives(
    target_step_s: float | None,
) -> None:
    """None exceeds 2.25 times the idle gap, whether the target is learnt or set to twice of it."""
    gap, num_steps = longest_gap(target_step_s)
    assert gap < 2.25
    assert num_steps < 4000 / MIN_PROMPT_TOKENS


def test_the_first_long_prompt_of_all_is_approached_from_below() -> None:
    """Where no step with a prompt was ever measured, the gaps stay short as well."""
    gap, num_steps = longest_gap(None, num_prompt_tokens=1)
    assert gap < 2.25
    assert num_steps < 4000 / MIN_PROMPT_TOKENS


def test_without_a_target_streams_stall() -> None:
    """A step budget of 2,048 tokens alone lets a long prompt stop the streams."""
    gap, _ = longest_gap(0.0)
    assert gap > 10


def test_a_crowd_of_prompts_outweighs_the_streams() -> None:
    """Where eight times as many prompts as streams wait, they get eight times the time."""
    one, crowd = streaming(None)[0], streaming(None)[0]
    idle_s = one.stats().last_step_s
    for engine, count in ((one, 1), (crowd, 64)):
        for index in range(count):
            engine.add(f"prompt {index}", [10 + index % 40, *[9] * 4000], SamplingParams(1))
        for _ in range(8):
            engine.step()
    assert 6 < (crowd.stats().last_step_s - idle_s) / (one.stats().last_step_s - idle_s) < 10


def test_an_impossible_target_does_not_stop_prompts() -> None:
    """When even decoding alone is slower than the target, a prompt goes on bit by bit."""
    _, num_steps = longest_gap(0.001)
    assert num_steps == 4000 / MIN_PROMPT_TOKENS


def test_an_unknown_share_is_approached_by_doubling() -> None:
    """A budget goes at most to twice the prompt share that was ever measured."""
    budget = StepBudget(2048)
    budget.limit_time(1.0, StepTime(0.005, 0.0, 0.0), max_seen_tokens=100)
    assert budget.offer(0, 4000) == 200


@given(
    start=st.integers(0, 100_000),
    left_s=st.floats(1e-4, 1.0),
    token_s=st.floats(1e-6, 1e-3),
    pair_s=st.floats(0.0, 1e-6),
)
def test_a_share_is_the_largest_that_keeps_the_time(
    start: int, left_s: float, token_s: float, pair_s: float
) -> None:
    """What is offered fits in the seconds left; one token more would not."""
    time = StepTime(0.0, token_s, pair_s)
    budget = StepBudget(100_000)
    budget.limit_time(left_s, time, max_seen_tokens=100_000)
    count = budget.offer(start, 100_000)
    assume(MIN_PROMPT_TOKENS < count < 100_000)
    chunk = Chunk(request(1), start, count)
    assert duration_s(time, [chunk]) <= left_s * (1 + 1e-9)
    assert duration_s(time, [Chunk(request(1), start, count + 1)]) > left_s * (1 - 1e-9)
    budget.take(start, count)
    assert budget.left_s == pytest.approx(left_s - duration_s(time, [chunk]), abs=1e-9)


def test_the_limit_grows_back_after_good_steps() -> None:
    """It halves down to the least, and doubles up to the most after many good steps."""
    limit = TokenLimit(3, 16)
    for _ in range(4):
        limit.lower()
    assert limit.num_tokens == 3
    for _ in range(256):
        limit.observe_step()
    assert limit.num_tokens == 6
    for _ in range(3 * 256):
        limit.observe_step()
    assert limit.num_tokens == 16
