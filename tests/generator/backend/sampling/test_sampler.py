"""Draws: which token, from which distribution, and how reproducibly."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from services.generator.backend.sampling.sampler import sample, uniform
from services.generator.engine import SamplingParams
from services.generator.engine.draw import Draw
from services.generator.engine.request import Request

MakeRequest = Callable[..., Request]


def warm(make_request: MakeRequest, seed: int = 0, **params: Any) -> Draw:
    """Make a request that samples; return the draw of its next token."""
    return Draw(make_request(seed=seed, params=SamplingParams(max_tokens=64, **params)))


def draw_many(
    make_request: MakeRequest, logits: torch.Tensor, count: int, **params: Any
) -> torch.Tensor:
    """Draw `count` tokens from one row of logits with different seeds; return their counts."""
    draws = [warm(make_request, seed, **params) for seed in range(count)]
    tokens = sample(logits.repeat(count, 1), draws)
    return torch.bincount(torch.tensor(tokens), minlength=logits.shape[-1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_greedy_takes_the_most_likely(make_request: MakeRequest, dtype: torch.dtype) -> None:
    """Temperature 0 is argmax in any dtype."""
    logits = torch.randn(5, 300, generator=torch.Generator().manual_seed(0)).to(dtype)
    draws = [Draw(make_request(params=SamplingParams(temperature=0))) for _ in range(5)]
    assert sample(logits, draws) == logits.argmax(-1).tolist()


@pytest.mark.parametrize("params", [{}, {"top_p": 0.999999}, {"top_k": 20}, {"temperature": 2.0}])
def test_draws_follow_the_distribution(make_request: MakeRequest, params: dict[str, Any]) -> None:
    """A chi-square test does not tell the draws from the softmax (p = 0.001, 19 degrees)."""
    logits = torch.linspace(-2.0, 2.0, 20)
    counts = draw_many(make_request, logits, 5_000, **params)
    expected = torch.softmax(logits / params.get("temperature", 1.0), 0) * 5_000
    assert ((counts - expected) ** 2 / expected).sum() < 43.8


def test_top_k_keeps_the_k_best(make_request: MakeRequest) -> None:
    """Only the k best are drawn, in proportion to their probabilities."""
    logits = torch.tensor([0.0, 3.0, 1.0, 2.0, -1.0])
    counts = draw_many(make_request, logits, 4000, top_k=3)
    expected = torch.softmax(logits[[1, 2, 3]], 0) * 4000
    assert counts[[0, 4]].sum() == 0
    assert ((counts[[1, 2, 3]] - expected) ** 2 / expected).sum() < 13.8


def test_top_p_keeps_the_smallest_sufficient_set(make_request: MakeRequest) -> None:
    """The token that carries the sum over top_p belongs to the nucleus, the next does not."""
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    assert (draw_many(make_request, logits, 2000, top_p=0.79) > 0).tolist() == [1, 1, 0, 0]
    assert (draw_many(make_request, logits, 2000, top_p=0.81) > 0).tolist() == [1, 1, 1, 0]
    assert (draw_many(make_request, logits, 200, top_p=1e-6) > 0).tolist() == [1, 0, 0, 0]


def test_top_p_works_within_top_k(make_request: MakeRequest) -> None:
    """top_p is a share of what top_k left."""
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    counts = draw_many(make_request, logits, 2000, top_k=2, top_p=0.5)
    assert (counts > 0).tolist() == [1, 0, 0, 0]


def test_a_wide_nucleus_is_not_cut(make_request: MakeRequest) -> None:
    """A nucleus wider than the sampler's first look is drawn from all of its tokens."""
    logits = torch.zeros(4000)
    logits[:1000] += 1e-3
    rows = logits.repeat(600, 1)
    draws = [warm(make_request, seed, top_p=0.5) for seed in range(600)]
    tokens = torch.tensor(sample(rows, draws))
    assert len(tokens.unique()) > 500
    assert (tokens >= 1000).any()


def test_low_temperature_approaches_greedy(make_request: MakeRequest) -> None:
    """However low the temperature, nothing overflows."""
    logits = torch.tensor([10.0, 10.1, -30.0])
    assert draw_many(make_request, logits, 50, temperature=1e-6).tolist() == [0, 50, 0]


def test_a_seed_draws_alike_alone_and_in_a_batch(make_request: MakeRequest) -> None:
    """A request's draw depends on its row, seed and position, not on its neighbours."""
    logits = torch.randn(6, 500, generator=torch.Generator().manual_seed(1))
    kinds: list[dict[str, Any]] = [{}, {"top_k": 9}, {"top_p": 0.7}, {"temperature": 0.0}] + [
        {}
    ] * 2
    draws = [warm(make_request, seed, **kind) for seed, kind in enumerate(kinds)]
    together = sample(logits.clone(), draws)
    alone = [sample(logits[i : i + 1].clone(), [draws[i]])[0] for i in range(6)]
    assert together == alone


def test_draws_differ_by_position(make_request: MakeRequest) -> None:
    """The same seed gives another number at another position of the output."""
    logits = torch.zeros(1, 1000)
    draw = warm(make_request, seed=5)
    drawn: list[int] = []
    for _ in range(20):
        token_id = sample(logits.clone(), [draw])[0]
        assert token_id is not None
        drawn.append(token_id)
        draw.request.token_ids.append(token_id)
    assert len(set(drawn)) > 15


def test_a_draw_after_drafts_is_the_later_one(make_request: MakeRequest) -> None:
    """After drafts the token is drawn as it would be if they were in the output already."""
    logits = torch.zeros(1, 1000)
    draw = warm(make_request, seed=5)
    ahead = [sample(logits.clone(), [Draw(draw.request, (1, 2, 3)[:n])])[0] for n in range(4)]
    later = []
    for _ in range(4):
        later.append(sample(logits.clone(), [draw])[0])
        draw.request.token_ids.append(0)
    assert ahead == later


def test_uniform_is_a_stream_per_seed() -> None:
    """Numbers lie in [0, 1), repeat exactly, differ by seed and index, and average one half."""
    numbers = [uniform(seed, index) for seed in (-1, 0, 2**40) for index in range(1000)]
    assert numbers == [uniform(seed, index) for seed in (-1, 0, 2**40) for index in range(1000)]
    assert len(set(numbers)) == 3000
    assert all(0.0 <= number < 1.0 for number in numbers)
    assert abs(sum(numbers) / 3000 - 0.5) < 0.02


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_fails_alone(make_request: MakeRequest, value: float) -> None:
    """NaN or infinity anywhere in a row yields None for it, greedy or not; others are drawn."""
    logits = torch.zeros(4, 10)
    logits[:, 3] = 1e6
    logits[[1, 2], 7] = value
    draws = [warm(make_request, temperature=t) for t in (0.0, 0.0, 1.0, 1.0)]
    assert sample(logits, draws) == [3, None, None, 3]


def allowed_by(probabilities: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """Return what the filters leave of one distribution, one token at a time, in float64."""

    def of(kept: list[int], share: float) -> list[int]:
        total, kept_ids = sum(float(probabilities[i]) for i in kept), []
        mass = 0.0
        for i in kept:
            if mass >= share * total:
                break
            kept_ids.append(i)
            mass += float(probabilities[i])
        return kept_ids

    ranked = probabilities.argsort(descending=True).tolist()
    kept = [i for i in ranked if probabilities[i] >= params.min_p * probabilities.max()]
    kept = of(kept[: params.top_k or None], params.top_p)
    total = sum(float(probabilities[i]) for i in kept)
    surprise = {i: -math.log(float(probabilities[i]) / total) for i in kept}
    entropy = sum(float(probabilities[i]) / total * surprise[i] for i in kept)
    kept = of(sorted(kept, key=lambda i: abs(surprise[i] - entropy)), params.typical_p)
    left = torch.zeros_like(probabilities)
    left[kept] = probabilities[kept]
    return left / left.sum()


def chi_square_limit(degrees: int) -> float:
    """Return what one in a thousand true samples exceeds (Wilson and Hilferty 1931)."""
    part = 2 / (9 * degrees)
    return float(degrees * (1 - part + 3.09 * part**0.5) ** 3)


@pytest.mark.parametrize("vocab_size", [30, 400])
@pytest.mark.parametrize(
    "params",
    [
        {"min_p": 0.1},
        {"min_p": 0.001},
        {"typical_p": 0.5},
        {"typical_p": 0.95},
        {"top_p": 0.9, "typical_p": 0.6},
        {"top_k": 12, "min_p": 0.05},
        {"min_p": 0.02, "top_p": 0.7},
        {"temperature": 0.7, "min_p": 0.01, "top_k": 25, "top_p": 0.95, "typical_p": 0.9},
        {"temperature": 1.5, "top_k": 300, "top_p": 0.99},
    ],
    ids=str,
)
def test_each_filter_follows_its_definition(
    make_request: MakeRequest, params: dict[str, Any], vocab_size: int
) -> None:
    """Draws hit only what the filters leave, in the proportions that a plain reference finds."""
    logits = torch.randn(vocab_size, generator=torch.Generator().manual_seed(3)) * 2
    probabilities = torch.softmax(logits.double() / params.get("temperature", 1.0), 0)
    expected = allowed_by(probabilities, SamplingParams(**params))
    count = 4000
    counts = draw_many(make_request, logits, count, **params).double()
    assert counts[expected == 0].sum() == 0
    # tokens too rare for the test are taken together
    common = expected * count >= 5
    pairs = [(counts[common], expected[common] * count)]
    rare = expected[~common].sum() * count
    if rare >= 5:
        pairs.append((counts[~common].sum().reshape(1), rare.reshape(1)))
    statistic = sum(float(((seen - due) ** 2 / due).sum()) for seen, due in pairs)
    degrees = sum(len(due) for _, due in pairs) - 1
    assert degrees >= 1
    assert statistic < chi_square_limit(degrees)


def test_ties_fall_alike_alone_and_in_a_batch(make_request: MakeRequest) -> None:
    """Which of equal tokens are candidates does not depend on the neighbours' options."""
    logits = torch.randint(0, 4, (64, 600), generator=torch.Generator().manual_seed(5)).float()
    kinds: list[dict[str, Any]] = [{"top_k": 5}, {"top_k": 90}, {"top_p": 0.3}, {"min_p": 0.9}]
    draws = [warm(make_request, seed, **kinds[seed % 4]) for seed in range(64)]
    together = sample(logits, draws)
    assert together == [sample(logits[i : i + 1], [draw])[0] for i, draw in enumerate(draws)]
