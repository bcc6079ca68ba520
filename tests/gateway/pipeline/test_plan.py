"""Runs of the generator and the choices that come of them."""

import pytest

from services.gateway.domain.generation import GenerationRequest, Model, Sampling, Usage
from services.gateway.domain.request import Options
from services.gateway.pipeline.plan import Plan, plan_runs
from services.gateway.pipeline.response_cache import Outcome

MODEL = Model("tiny", "r", 512, 256)


def plan(*prompts: int, n: int = 1, best_of: int = 1, sampling: Sampling | None = None) -> Plan:
    options = Options(model="tiny", n=n, best_of=best_of, sampling=sampling or Sampling(4))
    requests = [GenerationRequest(MODEL, (1,) * length, options.sampling) for length in prompts]
    echoes = [f"prompt {length}" for length in prompts]
    return Plan(plan_runs(requests, options, echoes), n, Outcome.BYPASS)


def test_draws_are_runs_of_their_own() -> None:
    """Each prompt is run best_of times, with seeds that count on, and each run has one choice."""
    made = plan(2, 3, best_of=2, sampling=Sampling(4, seed=2**64 - 1))
    assert [run.request.sampling.seed for run in made.runs] == [2**64 - 1, 0] * 2
    assert [[choice.index for choice in run.choices] for run in made.runs] == [[0], [1], [2], [3]]
    assert [choice.echo for choice in made.choices] == ["prompt 2"] * 2 + ["prompt 3"] * 2


def test_a_beam_search_is_one_run_with_n_choices() -> None:
    """Its width makes no more runs, and the choices count on over the prompts."""
    made = plan(2, 3, n=2, best_of=4, sampling=Sampling(4, n=2, beam_width=4))
    assert [[choice.index for choice in run.choices] for run in made.runs] == [[0, 1], [2, 3]]
    assert [choice.prompt for choice in made.choices] == [0, 0, 1, 1]


@pytest.mark.parametrize(("n", "kept"), [(1, [1, 3]), (2, [1, 2, 3, 5]), (3, [0, 1, 2, 3, 4, 5])])
def test_the_best_of_each_prompt_are_answered(n: int, kept: list[int]) -> None:
    """Best first; where all are answered they keep their order."""
    scores = [-3.0, -1.0, -2.0, -1.0, -3.0, -2.0]
    assert plan(2, 3, n=n, best_of=3).answered(scores) == kept


def test_a_prompt_counts_once() -> None:
    """Its tokens are those of its first choice; the answers' tokens are all counted."""
    made = plan(2, 3, best_of=2, n=2)
    usages = {i: Usage(length, 5, 1) for i, length in enumerate([2, 2, 3, 3])}
    assert made.total(usages) == Usage(5, 20, 2)
