"""The step-time model, and the streams whose gaps it keeps short while a long prompt arrives."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from services.generator.engine import Engine, EngineConfig, SamplingParams
from services.generator.engine.block_pool import BlockPool
from services.generator.engine.chunk import Chunk, ChunkResult
from services.generator.engine.step_budget import MIN_PROMPT_TOKENS, StepBudget
from services.generator.engine.step_time import StepTime, StepTimeModel
from tests.generator.engine.fake_executor import FakeExecutor
from tests.generator.shape import shape

TRUTH = StepTime(0.005, 0.00005, 0.0000002)
MODEL = shape(vocab_size=50, max_position_embeddings=8192)


class TimedExecutor(FakeExecutor):
    """Lets its own clock go on by what a step would cost, with five percent of noise."""

    def __init__(self) -> None:
        super().__init__(16)
        self.now_s = 0.0
        self._rng = random.Random(0)

    def execute(self, chunks: Sequence[Chunk]) -> list[ChunkResult]:
        tokens = sum(chunk.num_tokens for chunk in chunks)
        step_s = TRUTH.predict(tokens, sum(chunk.end for chunk in chunks))
        self.now_s += step_s * self._rng.uniform(0.95, 1.05)
        return [ChunkResult((1,) if chunk.samples else ()) for chunk in chunks]


def longest_gap(target_step_s: float) -> tuple[float, int]:
    """Run eight streams, then a 4,000-token prompt; longest gap over idle gap, and its steps."""
    executor = TimedExecutor()
    config = EngineConfig(
        Path("unused"), max_num_seqs=16, max_batched_tokens=2048, target_step_s=target_step_s
    )
    engine = Engine(config, MODEL, executor, BlockPool(2000, 16), clock=lambda: executor.now_s)
    for index in range(8):
        params = SamplingParams(2000, temperature=0)
        engine.add(str(index), [index] * 200, params)
    for _ in range(100):
        engine.step()
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


def test_the_gaps_of_streams_stay_short_while_a_long_prompt_arrives() -> None:
    """With a target of twice the idle gap none exceeds 2.5 times; without one a stream stalls."""
    with_target, num_steps = longest_gap(2 * 0.0059)
    assert with_target < 2.5
    assert num_steps < 4000 / MIN_PROMPT_TOKENS
    without, _ = longest_gap(0.0)
    assert without > 10


def test_an_impossible_target_does_not_stop_prompts() -> None:
    """When even decoding alone is slower than the target, a prompt goes on block by block."""
    _, num_steps = longest_gap(0.001)
    assert num_steps == 4000 / MIN_PROMPT_TOKENS


def observed(model: StepTimeModel, truth: StepTime, count: int, seed: int) -> StepTime:
    rng = random.Random(seed)
    for _ in range(count):
        num_prompt = rng.choice([0, 0, 16, 100, 500])
        tokens, context = 8 + num_prompt, rng.randrange(1000, 50_000)
        model.observe(tokens, context, num_prompt, truth.predict(tokens, context))
    return model.fit()


def test_the_coefficients_are_found() -> None:
    """From steps that follow the model exactly the fit gives it back."""
    assert observed(StepTimeModel(), TRUTH, 100, 0) == pytest.approx(TRUTH, rel=1e-3)


def test_a_change_of_speed_is_followed() -> None:
    """After a few hundred steps the old coefficients are forgotten."""
    model = StepTimeModel()
    observed(model, TRUTH, 500, 0)
    slower = StepTime(0.01, 0.0001, 0.0000004)
    assert observed(model, slower, 600, 1) == pytest.approx(slower, rel=0.02)


def test_no_coefficient_is_negative() -> None:
    """Times that fall with the tokens are read as a constant."""
    model = StepTimeModel()
    for tokens in (10, 20, 30):
        model.observe(tokens, 0, 0, 1.0 / tokens)
    fit = model.fit()
    assert min(fit) >= 0.0
    assert fit.token_s == 0.0


def test_decoding_alone_does_not_forget_what_prompts_cost() -> None:
    """Hours of plain decoding leave the price of a prompt token as it was."""
    model = StepTimeModel()
    observed(model, TRUTH, 100, 0)
    for step in range(5000):
        model.observe(8, 2000 + step, 0, TRUTH.predict(8, 2000 + step))
    assert model.fit().token_s == pytest.approx(TRUTH.token_s, rel=0.05)


def test_an_unknown_share_is_approached_by_doubling() -> None:
    """A budget goes at most to twice the prompt share that was ever measured."""
    budget = StepBudget(2048)
    budget.limit_time(1.0, StepTime(0.005, 0.0, 0.0), max_seen_tokens=100)
    assert budget.offer(0, 4000) == 200
