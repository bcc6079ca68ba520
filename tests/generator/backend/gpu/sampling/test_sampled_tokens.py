"""Log-probabilities and candidates beside the tokens, and when they can be read."""

from typing import Any

import pytest
import torch

from services.generator.backend.gpu.device import Device
from services.generator.backend.gpu.sampling.token_sampler import TokenSampler
from services.generator.backend.sampling.logprobs import token_logprobs
from services.generator.engine import SamplingParams
from services.generator.engine.draw import Draw
from services.generator.engine.sequences.beam_group import BeamGroup
from tests.generator.backend.gpu.both_samplers import (
    assert_same,
    assert_same_logprobs,
    on_cpu,
    on_device,
)
from tests.generator.backend.gpu.rows import EDITS, VOCAB, MakeRequest, favour, greedy, make_logits
from tests.generator.interpreter import IS_GPU

# numpy, behind the interpreter, warns of infinities and NaN
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.fixture
def sampler(device: Device) -> TokenSampler:
    return TokenSampler(device, VOCAB, 8)


def test_logprobs_are_those_of_the_raw_logits(
    make_request: MakeRequest, device: Device, sampler: TokenSampler
) -> None:
    """As many alternatives as each row asks for, whatever its edits."""
    kinds: list[dict[str, Any]] = [
        *({"logprobs": 0}, {}, {"logprobs": 5, "bad_token_ids": (3, 5)}),
        *({"logprobs": 20, "allowed_token_ids": (4, 6)}, {"logprobs": 2, "presence_penalty": 1.0}),
    ]
    logits = favour(make_logits(5), 3, 5)
    draws = [Draw(greedy(make_request, (3,), **params)) for params in kinds]
    sampled = on_device(device, sampler, logits, draws)
    assert_same(sampled, on_cpu(logits, draws))
    assert [len(one.top_token_ids) for one in sampled.logprobs.values()] == [0, 5, 20, 2]
    # where every row asks, narrow logits are not gathered
    logits, draws = logits.bfloat16(), [draws[0], draws[0], draws[4], draws[4], draws[4]]
    assert_same(on_device(device, sampler, logits, draws), on_cpu(logits, draws))


def test_beams_have_their_candidates(
    make_request: MakeRequest, device: Device, sampler: TokenSampler
) -> None:
    """Of edited logits, at the probabilities of the raw ones, as many as each search needs."""
    kinds: list[dict[str, Any]] = [
        *({"beam_width": 4}, {"beam_width": 2, "bad_token_ids": (3,)}),
        *({"beam_width": 3, "allowed_token_ids": (5, 6)}, {"beam_width": 40, "min_tokens": 2}),
    ]
    beams = [greedy(make_request, **params) for params in kinds]
    for beam in beams:
        BeamGroup(beam, [])
    draws = [Draw(greedy(make_request)), *map(Draw, beams)]
    logits = favour(make_logits(5), 3, 1, 5, 6)
    sampled = on_device(device, sampler, logits, draws)
    assert_same(sampled, on_cpu(logits, draws))
    assert [len(each) for each in sampled.candidates.values()] == [7, 5, 2, 43]
    assert on_device(device, sampler, logits[:1], draws[:1]).candidates == {}


def test_typical_p_is_drawn_by_the_cpus_sampler(
    make_request: MakeRequest, device: Device, sampler: TokenSampler
) -> None:
    """With its random numbers, of edited logits, beside rows that the device draws."""
    kinds: list[dict[str, Any]] = [
        {"typical_p": 0.8, "logprobs": 3, "bad_token_ids": (3,)},
        {"temperature": 0.0, "typical_p": 0.8, "logprobs": 2},
        {"typical_p": 0.3, "presence_penalty": 1.0, "top_k": 9},
    ]
    draws = [
        Draw(make_request(seed=seed, params=SamplingParams(**params)))
        for seed, params in enumerate(kinds)
    ]
    for dtype in (torch.float32, torch.bfloat16):
        logits = (favour(make_logits(3), 3, 9) / 4).to(dtype)
        assert_same(on_device(device, sampler, logits, draws), on_cpu(logits, draws))


def test_prompt_tokens_are_described(device: Device, sampler: TokenSampler) -> None:
    """As on the CPU, in a launch of their own beside the step's, or none at all."""
    logits = make_logits(4)
    token_ids, counts = [0, 119, 7, 7], [0, 1, 20, 3]
    read = sampler.launch_scores(logits.to(device.device), token_ids, counts)
    device.mark()()
    assert_same_logprobs(read(), token_logprobs(logits, token_ids, counts))
    assert sampler.launch_scores(logits[:0].to(device.device), [], [])() == []


def test_no_rows(device: Device, sampler: TokenSampler) -> None:
    """A step may draw nothing."""
    assert on_device(device, sampler, make_logits(1)[:0], []) == ([], {}, {})


def test_results_outlast_one_more_launch(
    make_request: MakeRequest, device: Device, sampler: TokenSampler
) -> None:
    """A step can be launched before the one before it is read."""
    logits = make_logits(2)
    draws = [Draw(greedy(make_request, logprobs=1))]
    first, second = (
        sampler.launch(row.to(device.device), draws) for row in (logits[:1], logits[1:])
    )
    device.mark()()
    best = [[token_id] for token_id in logits.argmax(1).tolist()]
    assert [step.choices().token_ids for step in (first, second)] == best
    assert [[step.choices().logprobs[0].token_id] for step in (first, second)] == best


@pytest.mark.gpu
@pytest.mark.skipif(not IS_GPU, reason="only CUDA knows what is waited for")
def test_nothing_is_waited_for(
    make_request: MakeRequest, device: Device, sampler: TokenSampler
) -> None:
    """Whatever the rows ask for, once the kernels are compiled."""
    kinds = [*EDITS, {"logprobs": 5}, {"beam_width": 2, "bad_token_ids": (3,)}]
    logits = make_logits(len(kinds) + 2).to(device.device)
    for launch in range(3):
        requests = [greedy(make_request, (9,), **params) for params in kinds]
        BeamGroup(requests[-1], [])
        requests += [make_request(params=SamplingParams(typical_p=0.5, logprobs=1))]
        draws = [*map(Draw, requests), Draw(requests[-2], (4,))]
        torch.cuda.set_sync_debug_mode("error" if launch else "default")
        try:
            sampler.launch(logits, draws)
            sampler.launch_scores(logits[:2], [1, 2], [3, 0])
        finally:
            torch.cuda.set_sync_debug_mode("default")
        device.mark()()
