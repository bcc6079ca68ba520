"""Bans, bias and penalties against the same rules written one token at a time."""

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.generator.backend.sampling.logits_processors import LogitsProcessors
from services.generator.backend.sampling.token_counts import TokenCounts
from services.generator.engine import SamplingParams
from services.generator.engine.draw import Draw
from services.generator.engine.request import Request

MakeRequest = Callable[..., Request]

VOCAB = 12
STOPS = frozenset({1, 2})
BAN = float("-inf")
TOKENS = st.integers(0, VOCAB - 1)
PENALTIES = st.sampled_from([0.0, -1.5, 0.25, 2.0])
# the fixture only numbers requests
PATIENT = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@st.composite
def options(draw: st.DrawFn) -> SamplingParams:
    """Any mixture of processors, often none."""
    if draw(st.booleans()):
        return SamplingParams()
    bias = draw(st.dictionaries(TOKENS, st.sampled_from([-100.0, -0.5, 3.0]), max_size=3))
    return SamplingParams(
        min_tokens=draw(st.integers(0, 4)),
        repetition_penalty=draw(st.sampled_from([1.0, 1.3, 0.5])),
        frequency_penalty=draw(PENALTIES),
        presence_penalty=draw(PENALTIES),
        logit_bias=tuple(bias.items()),
        allowed_token_ids=tuple(draw(st.sets(TOKENS, max_size=6))),
        bad_token_ids=tuple(draw(st.sets(TOKENS, max_size=2))),
    )


def expected(logits: list[float], request: Request) -> list[float]:
    """One row's processors, token by token."""
    params = request.params
    output = request.token_ids[request.num_prompt_tokens :]
    processed = []
    for token_id, logit in enumerate(logits):
        if params.allowed_token_ids and token_id not in params.allowed_token_ids:
            logit = BAN
        if token_id in params.bad_token_ids:
            logit = BAN
        if len(output) < params.min_tokens and token_id in request.stop_token_ids:
            logit = BAN
        logit += dict(params.logit_bias).get(token_id, 0.0)
        if token_id in request.token_ids:
            factor = params.repetition_penalty
            logit = logit / factor if logit > 0 else logit * factor
        logit -= params.frequency_penalty * output.count(token_id)
        logit -= params.presence_penalty * (token_id in output)
        processed.append(logit)
    return processed


@PATIENT
@given(
    rows=st.lists(
        st.tuples(options(), st.lists(TOKENS, min_size=1, max_size=5)), min_size=1, max_size=4
    ),
    steps=st.lists(st.lists(TOKENS, min_size=4, max_size=4), max_size=5),
    seed=st.integers(0, 100),
)
def test_a_batch_equals_a_naive_reference(
    make_request: MakeRequest, rows: Any, steps: list[list[int]], seed: int
) -> None:
    """In every step each row has its own request's processors, counted on from the step before."""
    generator = torch.Generator().manual_seed(seed)
    requests = [make_request(prompt, params=p, stop_token_ids=STOPS) for p, prompt in rows]
    processors = LogitsProcessors()
    for step in [*steps, None]:
        logits = torch.randn(len(requests), VOCAB, generator=generator) * 3
        due = [
            expected(row, request) for row, request in zip(logits.tolist(), requests, strict=True)
        ]
        torch.testing.assert_close(
            processors.apply(logits, list(map(Draw, requests))), torch.tensor(due)
        )
        for request, token_id in zip(requests, step or (), strict=False):
            request.token_ids.append(token_id)


@PATIENT
@given(st.lists(st.integers(0, 300), max_size=200), st.lists(st.integers(0, 300), max_size=300))
def test_counts_grow_with_the_output(prompt: list[int], output: list[int]) -> None:
    """However the output arrives, each distinct token is there once with its count."""
    counts = TokenCounts(prompt)
    for end in range(0, len(output) + 1, 7):
        counts.catch_up(prompt + output[:end], len(prompt))
        counts.catch_up(prompt + output[:end], len(prompt))
    counts.catch_up(prompt + output, len(prompt))
    counted = dict(zip(counts.ids.tolist(), counts.counts.tolist(), strict=True))
    assert counted == {token_id: output.count(token_id) for token_id in {*prompt, *output}}
    assert len(counts) == len(counted)


@PATIENT
@given(
    row=options(),
    tokens=st.lists(TOKENS, min_size=1, max_size=12),
    cuts=st.tuples(st.integers(1, 12), st.integers(0, 6)),
)
def test_a_draw_after_drafts_sees_them_in_the_output(
    make_request: MakeRequest, row: SamplingParams, tokens: list[int], cuts: tuple[int, int]
) -> None:
    """Its row is processed as the request's will be when the drafts are tokens, and then again."""
    prompt, output = tokens[: cuts[0]], tokens[cuts[0] :]
    known, drafts = output[: cuts[1]], tuple(output[cuts[1] :])
    request = make_request(prompt, params=row, stop_token_ids=STOPS)
    request.token_ids += known
    later = make_request(prompt, params=row, stop_token_ids=STOPS)
    later.token_ids += output
    processors, logits = LogitsProcessors(), torch.randn(2, VOCAB)
    draws = [Draw(request), Draw(request, drafts)]
    for _ in range(2):
        due = [expected(logits[0].tolist(), request), expected(logits[1].tolist(), later)]
        torch.testing.assert_close(processors.apply(logits.clone(), draws), torch.tensor(due))


def test_counts_outgrow_their_first_tensors() -> None:
    """More distinct output tokens than there was room for at first are all counted."""
    counts = TokenCounts([])
    counts.catch_up([*range(200), *range(150)], 0)
    assert counts.ids.tolist() == list(range(200))
    assert counts.counts.tolist() == [2.0] * 150 + [1.0] * 50


def test_rows_without_edits_are_left_alone(make_request: MakeRequest) -> None:
    """Where nobody asks for anything, the very tensor comes back, in its own dtype."""
    logits = torch.randn(3, VOCAB).bfloat16()
    assert LogitsProcessors().apply(logits, [Draw(make_request()) for _ in range(3)]) is logits


def test_a_small_penalty_survives_bfloat16(make_request: MakeRequest) -> None:
    """Narrow logits are widened before a penalty that their rounding would lose."""
    request = make_request([0], params=SamplingParams(presence_penalty=0.01))
    request.token_ids.append(3)
    logits = torch.full((1, 4), 20.0).bfloat16()
    processed = LogitsProcessors().apply(logits, [Draw(request)])
    assert processed[0, 3].item() == pytest.approx(19.99, abs=1e-5)


def test_stops_are_held_back_until_min_tokens(make_request: MakeRequest) -> None:
    """A stop token cannot be drawn before min_tokens others, and can right after."""
    params = SamplingParams(max_tokens=9, min_tokens=2, temperature=0)
    request = make_request(params=params, stop_token_ids=frozenset({1, 2}))
    processors, logits = LogitsProcessors(), torch.tensor([[1.0, 3.0, 2.0]])
    assert processors.apply(logits.clone(), [Draw(request)]).argmax() == 0
    request.token_ids += [0, 0]
    assert processors.apply(logits.clone(), [Draw(request)]).argmax() == 1


def test_what_is_remembered_ends_with_the_request(make_request: MakeRequest) -> None:
    """A request that is gone leaves nothing behind."""
    processors = LogitsProcessors()
    params = SamplingParams(repetition_penalty=1.2, bad_token_ids=(1,))
    request = make_request(params=params)
    processors.apply(torch.zeros(1, VOCAB), [Draw(request)])
    assert len(processors._counts) == len(processors._masks) == 1
    del request
    gc.collect()
    assert len(processors._counts) == len(processors._masks) == 0
