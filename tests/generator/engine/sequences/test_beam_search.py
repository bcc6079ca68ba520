"""Beam search without a model: which beams go on, which end, and when all do."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from services.generator.backend.sampling.beam_candidates import beam_candidates
from services.generator.engine import ParamError, SamplingParams
from services.generator.engine.sequences.beam_search import BeamSearch, Row
from services.generator.engine.token_logprobs import Candidate

STOP = 0


def row(token_ids: Sequence[int], **probabilities: float) -> Row:
    """A beam with candidates `t5=0.5`, best first."""
    ranked = sorted(probabilities.items(), key=lambda entry: -entry[1])
    return Row(token_ids, [Candidate(int(name[1:]), math.log(p)) for name, p in ranked])


def test_beams_compete_across_parents() -> None:
    """One beam may be continued twice and another not at all."""
    search = BeamSearch(2, 1.0, 8, frozenset())
    assert search.advance([row([], t1=0.6, t2=0.3, t3=0.1)]) == [(0, 1), (0, 2)]
    rows = [row([1], t4=0.2, t5=0.1, t6=0.1), row([2], t7=0.9, t8=0.5, t9=0.01)]
    assert search.advance(rows) == [(1, 7), (1, 8)]


def test_a_stop_token_ends_a_beam_and_another_takes_its_place() -> None:
    """The width of the search stays; the stopped sequence is kept without its stop token."""
    search = BeamSearch(2, 1.0, 8, frozenset({STOP}))
    search.advance([row([], t1=0.6, t2=0.3)])
    rows = [row([1], t0=0.9, t4=0.05, t5=0.02), row([2], t4=0.5, t6=0.1)]
    assert search.advance(rows) == [(1, 4), (0, 4)]
    [hypothesis] = search.finished
    assert (hypothesis.token_ids, hypothesis.num_tokens, hypothesis.is_stopped) == ((1,), 2, True)
    assert hypothesis.score == pytest.approx(math.log(0.6 * 0.9) / 2)


def test_a_stop_token_may_be_included() -> None:
    """The stopped sequence is kept with its stop token, and its score is the same."""
    rows = [row([1], t0=0.9, t4=0.05, t5=0.02), row([2], t4=0.5, t6=0.1)]
    found = []
    for include in (False, True):
        search = BeamSearch(2, 1.0, 8, frozenset({STOP}), include_stop_token=include)
        search.advance([row([], t1=0.6, t2=0.3)])
        search.advance(rows)
        found += search.finished
    without, including = found
    assert including == without._replace(token_ids=(1, STOP))


def test_a_stop_outside_the_first_k_is_dropped() -> None:
    """A stopped sequence counts only where it beats what goes on."""
    search = BeamSearch(2, 1.0, 8, frozenset({STOP}))
    search.advance([row([], t1=0.5, t2=0.4, t0=0.1)])
    assert search.finished == []


def test_the_last_tokens_finish_all_beams() -> None:
    """At max_tokens the best sequences end where they are."""
    search = BeamSearch(2, 1.0, 2, frozenset({STOP}))
    search.advance([row([], t1=0.6, t2=0.3)])
    assert search.advance([row([1], t4=0.5, t5=0.4), row([2], t4=0.9)]) == []
    assert [h.token_ids for h in search.finished] == [(1, 4), (2, 4)]
    assert not any(h.is_stopped for h in search.finished)


@pytest.mark.parametrize(("length_penalty", "goes_on"), [(0.0, False), (5.0, True)])
def test_the_search_ends_when_nothing_can_improve(length_penalty: float, goes_on: bool) -> None:
    """A penalty that favours long sequences keeps the beams alive, none lets them go."""
    search = BeamSearch(2, length_penalty, 64, frozenset({STOP}))
    search.advance([row([], t1=0.5, t2=0.4)])
    beams = search.advance([row([1], t0=0.8, t3=0.1), row([2], t0=0.8, t3=0.1)])
    assert bool(beams) is goes_on


def test_candidates_are_the_models_own_probabilities() -> None:
    """Bans take tokens away and leave the others' log-probabilities as they were."""
    logits = torch.tensor([[1.0, 3.0, 2.0, float("-inf")], [0.0, 0.0, 5.0, 1.0]])
    raw = torch.tensor([[1.0, 3.0, 2.0, 9.0], [0.0, 0.0, 5.0, 1.0]])
    totals = raw.logsumexp(1, keepdim=True)
    first, second = beam_candidates(logits, totals, [4, 1])
    assert [candidate.token_id for candidate in first] == [1, 2, 0]
    assert first[0].logprob == pytest.approx(raw[0].log_softmax(0)[1].item())
    assert [candidate.token_id for candidate in second] == [2]


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("beam_width", {"beam_width": 1}),
        ("beam_width", {"beam_width": -1}),
        ("n", {"beam_width": 2, "n": 3}),
        ("n", {"n": 0}),
        ("length_penalty", {"length_penalty": 2.0}),
        ("length_penalty", {"length_penalty": math.inf, "beam_width": 2}),
        ("temperature", {"beam_width": 2, "temperature": 0.5}),
        ("top_p", {"beam_width": 2, "top_p": 0.5}),
        ("frequency_penalty", {"beam_width": 2, "frequency_penalty": 1.0}),
        ("logprobs", {"beam_width": 2, "logprobs": 1}),
    ],
)
def test_what_a_beam_search_cannot_do_names_the_field(field: str, options: Any) -> None:
    """Options that would be ignored are refused."""
    with pytest.raises(ParamError) as caught:
        SamplingParams(**options)
    assert caught.value.field == field
