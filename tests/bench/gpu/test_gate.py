"""When the gate of `bench.gpu` lets a speed be shown."""

import math

import pytest

from bench.common.checkpoints import TINY
from bench.gpu.engine.gate import Answer, gate, judge
from services.generator.engine import TokenLogprobs

BOUND = 0.1


def told(token: int, logprob: float, *others: tuple[int, float]) -> TokenLogprobs:
    best = ((token, logprob), *others)
    return TokenLogprobs(token, logprob, 1, tuple(i for i, _ in best), tuple(p for _, p in best))


# the second token is nearly a tie of 8 and 9; 7 is far behind
EXPECTED = [
    Answer([5, 8, 3], [told(5, -0.1, (6, -3.0)), told(8, -0.7, (9, -0.75), (7, -2.0)), told(3, -1)])
]


def test_the_same_tokens_pass() -> None:
    """All of them are compared."""
    verdict = judge(EXPECTED, [Answer([5, 8, 3], [])], BOUND)
    assert (verdict.tokens, verdict.other_tokens, verdict.failed) == (3, 0, None)


def test_a_near_tie_may_fall_otherwise() -> None:
    """The gap is told, and what comes behind it is another text that nothing is said of."""
    verdict = judge(EXPECTED, [Answer([5, 9, 1], [])], BOUND)
    assert (verdict.tokens, verdict.other_tokens, verdict.failed) == (2, 1, None)
    assert verdict.worst_gap == pytest.approx(0.05)


@pytest.mark.parametrize(("token", "gap"), [(7, 1.3), (4, math.inf)])
def test_another_token_fails(token: int, gap: float) -> None:
    """One that the CPU finds unlikely, or so unlikely that it does not even tell it."""
    verdict = judge(EXPECTED, [Answer([5, token, 3], [])], BOUND)
    assert verdict.failed is not None
    assert f"token 1: {token} for 8" in verdict.failed
    assert verdict.worst_gap == pytest.approx(gap)


def test_missing_tokens_fail() -> None:
    """A request that ended early, although it said the right thing."""
    verdict = judge(EXPECTED, [Answer([5, 8], [])], BOUND)
    assert verdict.failed == "prompt 0 gave 2 tokens"


@pytest.mark.parametrize("logprob", [-0.95, math.nan])
def test_the_right_token_for_the_wrong_reason_fails(logprob: float) -> None:
    """Its log-probability is another, or none."""
    found = [told(5, -0.1), told(8, logprob), told(3, -1)]
    verdict = judge(EXPECTED, [Answer([5, 8, 3], found)], BOUND)
    assert verdict.failed is not None
    assert "token 1" in verdict.failed
    assert judge(EXPECTED, [Answer([5, 8, 3], EXPECTED[0].logprobs)], BOUND).failed is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_cpu_agrees_with_itself(dtype: str) -> None:
    """Prompts that do not fit the context are left out."""
    row = gate(TINY, dtype, "cpu", (1, 17, 100_000))
    assert "failed" not in row
    assert [row[name]["tokens"] for name in ("as timed", "with logprobs")] == [48, 48]
