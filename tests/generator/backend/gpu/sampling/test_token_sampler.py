"""Tokens sampled on the device are those that the CPU chooses."""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.generator.backend.gpu.device import Device
from services.generator.backend.gpu.sampling.token_sampler import TokenSampler
from services.generator.backend.gpu.triton.checks import KernelError
from services.generator.engine import SamplingParams
from services.generator.engine.chunk import Chunk
from services.generator.engine.draw import Draw
from tests.generator.backend.gpu.both_samplers import assert_same, on_cpu, on_device
from tests.generator.backend.gpu.rows import (
    EDITS,
    STOPS,
    VOCAB,
    MakeRequest,
    favour,
    greedy,
    make_logits,
)

# numpy, behind the interpreter, warns of infinities and NaN
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

TOKENS = st.integers(0, VOCAB - 1)


@pytest.fixture
def sampler(device: Device) -> TokenSampler:
    return TokenSampler(device, VOCAB, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_best_token_is_chosen(
    make_request: MakeRequest, device: Device, sampler: TokenSampler, dtype: torch.dtype
) -> None:
    """In the dtype that the logits come in, which edits leave as they were."""
    logits = make_logits(3, dtype)
    before = logits.clone()
    for params in ({}, {"presence_penalty": 0.01}):
        draws = [Draw(greedy(make_request, (9,), **params)) for _ in range(3)]
        sampled = on_device(device, sampler, logits, draws)
        assert sampled == on_cpu(logits, draws)
        assert None not in sampled.token_ids
        assert torch.equal(logits, before)


def test_each_edit_is_the_cpus(
    make_request: MakeRequest, device: Device, sampler: TokenSampler
) -> None:
    """All in one batch, where each decides its row; the output has two tokens."""
    logits = favour(make_logits(len(EDITS)), 1, 3, 5, 8, 9)
    draws = [Draw(greedy(make_request, (9, 9), **params)) for params in EDITS]
    sampled = on_device(device, sampler, logits, draws)
    assert_same(sampled, on_cpu(logits, draws))
    assert sampled.token_ids[:3] == [1, 7, 1]
    assert sampled.token_ids[3] in {11, 60, 119, 0}
    assert sampled.token_ids[4:7] == [44, 3, 1]


def test_penalties_weigh_their_own_rows_output(
    make_request: MakeRequest, device: Device, sampler: TokenSampler
) -> None:
    """A frequency penalty on 9 for each time that it came; the prompt is no output."""
    logits = favour(make_logits(3), 9, 3)
    draws = [Draw(greedy(make_request, (9,) * times, frequency_penalty=0.9)) for times in (0, 1, 2)]
    assert on_device(device, sampler, logits, draws).token_ids == [9, 9, 3]


@st.composite
def options(draw: st.DrawFn) -> SamplingParams:
    """Any mixture of edits for a greedy row, often none."""
    if draw(st.booleans()):
        return SamplingParams(temperature=0.0, logprobs=draw(st.sampled_from([None, 0, 3])))
    bias = draw(st.dictionaries(TOKENS, st.sampled_from([-100.0, -0.5, 3.0]), max_size=3))
    penalties = st.sampled_from([0.0, -1.5, 0.25, 2.0])
    return SamplingParams(
        temperature=0.0,
        min_tokens=draw(st.integers(0, 4)),
        repetition_penalty=draw(st.sampled_from([1.0, 1.3, 0.5])),
        frequency_penalty=draw(penalties),
        presence_penalty=draw(penalties),
        logit_bias=tuple(bias.items()),
        allowed_token_ids=tuple(draw(st.sets(TOKENS, max_size=6))),
        bad_token_ids=tuple(draw(st.sets(TOKENS, max_size=2))),
        logprobs=draw(st.sampled_from([None, 0, 3])),
    )


@settings(
    deadline=None,
    max_examples=12,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    rows=st.lists(st.tuples(options(), st.lists(TOKENS, min_size=1, max_size=5)), max_size=4),
    drafts=st.lists(TOKENS, max_size=2),
    seed=st.integers(0, 1000),
)
def test_any_batch_goes_as_on_the_cpu(
    make_request: MakeRequest, device: Device, rows: Any, drafts: list[int], seed: int
) -> None:
    """Step for step, where the requests take what was sampled and the last one drafts."""
    requests = [make_request(prompt, params=p, stop_token_ids=STOPS) for p, prompt in rows]
    sampler = TokenSampler(device, VOCAB, 1)
    for step in range(3):
        draws = [Draw(request) for request in requests]
        draws += [Draw(r, tuple(drafts[: end + 1])) for r in requests[-1:] for end in range(2)]
        logits = torch.randn(
            len(draws), VOCAB, generator=torch.Generator().manual_seed(3 * seed + step)
        )
        sampled = on_device(device, sampler, logits, draws)
        assert_same(sampled, on_cpu(logits, draws))
        for request, token_id in zip(requests, sampled.token_ids, strict=False):
            if token_id is not None:
                request.token_ids.append(token_id)


def test_drafts_count_as_output_of_their_row(
    make_request: MakeRequest, device: Device, sampler: TokenSampler
) -> None:
    """And again in the next step, when they were not drawn after all."""
    params = {"presence_penalty": 1.5, "min_tokens": 3, "logprobs": 1}
    request = greedy(make_request, (9,), **params)
    chunk = Chunk(request, request.num_tokens - 1, 4, drafts=(7, 7, 4))
    logits = favour(make_logits(4), 1, 9, 7, 4)
    for _ in range(2):
        sampled = on_device(device, sampler, logits, chunk.draws)
        assert_same(sampled, on_cpu(logits, chunk.draws))
        assert sampled.token_ids == [7, 9, 1, 1]


def test_forks_draw_from_the_same_row(
    make_request: MakeRequest, device: Device, sampler: TokenSampler
) -> None:
    """Each with the counts of its own request."""
    source, *forks = (greedy(make_request, repetition_penalty=1.5, logprobs=2) for _ in range(3))
    source.forks = forks
    draws = Chunk(source, 0, source.num_tokens).draws
    logits = favour(make_logits(1), 3, 9).repeat(3, 1)
    sampled = on_device(device, sampler, logits, draws)
    assert_same(sampled, on_cpu(logits, draws))
    assert sampled.token_ids == [9, 9, 9]


def test_a_row_that_is_not_finite_fails_alone(
    make_request: MakeRequest, device: Device, sampler: TokenSampler
) -> None:
    """Greedy, drawn, edited or drawn on the host; a ban makes a token's NaN harmless."""
    bad = {"bad_token_ids": (70,)}
    kinds: list[dict[str, Any]] = [
        *({}, {}, {"logprobs": 1}, {"logit_bias": ((5, 1.0),)}),
        *(bad, {"allowed_token_ids": (4, 6)}, {"allowed_token_ids": (4,), "bad_token_ids": (4,)}),
    ]
    draws = [Draw(greedy(make_request, **params)) for params in kinds]
    warm = [SamplingParams(), SamplingParams(typical_p=0.5), SamplingParams(typical_p=0.5)]
    draws += [Draw(make_request(params=params)) for params in warm]
    logits = favour(make_logits(len(draws)), 4)
    logits[1:-1, 70] = float("nan")
    logits[2, 70] = float("inf")
    sampled = on_device(device, sampler, logits, draws)
    assert_same(sampled, on_cpu(logits, draws))
    assert sampled.token_ids[:-1] == [4, None, None, None, 4, 4, None, None, None]


def test_logits_of_another_shape_are_refused(
    make_request: MakeRequest, device: Device, sampler: TokenSampler
) -> None:
    """Before anything is counted or launched."""
    for logits in (make_logits(2), make_logits(1)[:, :-1]):
        with pytest.raises(KernelError, match="logits has shape"):
            sampler.launch(logits.to(device.device), [Draw(greedy(make_request))])
