"""The step time model learns what tokens and attention cost."""

import random

import pytest

from services.generator.engine.chunk import Chunk
from services.generator.engine.scheduling.step_time import StepTime, StepTimeModel
from tests.generator.engine.scheduling.step_times import TRUTH, duration_s, request


def observed(model: StepTimeModel, truth: StepTime, count: int, seed: int) -> StepTime:
    rng = random.Random(seed)
    for _ in range(count):
        chunks = [decode(rng.randrange(100, 6000)) for _ in range(8)]
        num_prompt = rng.choice([0, 0, 16, 100, 500])
        if num_prompt:
            chunks.append(Chunk(request(8000), rng.randrange(6000), num_prompt))
        model.observe(chunks, duration_s(truth, chunks))
    return model.fit()


def decode(start: int) -> Chunk:
    return Chunk(request(start + 1), start, 1)


def test_the_coefficients_are_found() -> None:
    """From steps that follow the model exactly the fit gives it back."""
    assert observed(StepTimeModel(), TRUTH, 100, 0) == pytest.approx(TRUTH, rel=1e-3)


def test_a_change_of_speed_is_followed() -> None:
    """After a few hundred steps the old coefficients are forgotten."""
    model = StepTimeModel()
    observed(model, TRUTH, 500, 0)
    slower = StepTime(0.05, 0.0025, 0.0000009)
    assert observed(model, slower, 600, 1) == pytest.approx(slower, rel=0.02)


def test_no_coefficient_is_negative() -> None:
    """Times that fall with the tokens are read as a constant."""
    model = StepTimeModel()
    for num_tokens in (10, 20, 30):
        model.observe([Chunk(request(30), 0, num_tokens)], 1.0 / num_tokens)
    fit = model.fit()
    assert min(fit) >= 0.0
    assert fit.token_s == 0.0


def test_decoding_alone_does_not_forget_what_prompts_cost() -> None:
    """Hours of plain decoding leave the price of a prompt token as it was."""
    model = StepTimeModel()
    observed(model, TRUTH, 100, 0)
    for step in range(5000):
        chunks = [decode(200 + step)] * 8
        model.observe(chunks, duration_s(TRUTH, chunks))
    fit = model.fit()
    assert fit.token_s == pytest.approx(TRUTH.token_s, rel=0.05)
    assert fit.pair_s == pytest.approx(TRUTH.pair_s, rel=0.05)
