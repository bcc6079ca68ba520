"""Counts on the device follow from the requests alone."""

import gc
from collections.abc import Callable

import pytest
import torch

from services.generator.backend.gpu.device import Device
from services.generator.backend.gpu.sampling.token_counts import DeviceTokenCounts
from services.generator.backend.gpu.sampling.token_sampler import TokenSampler
from services.generator.engine import SamplingParams
from services.generator.engine.draw import Draw
from services.generator.engine.request import Request
from tests.generator.backend.gpu.both_samplers import on_cpu, on_device

MakeRequest = Callable[..., Request]

VOCAB = 30
PENALTIES = SamplingParams(max_tokens=64, temperature=0.0, repetition_penalty=1.5)


@pytest.fixture
def counts(device: Device) -> DeviceTokenCounts:
    return DeviceTokenCounts(device.device, VOCAB, 1)


def catch_up(counts: DeviceTokenCounts, device: Device, *requests: Request) -> None:
    """Let the requests' rows catch up."""
    columns = counts.columns(requests)
    counts.catch_up(requests, {name: c.to(device.device) for name, c in columns.items()})


def assert_counted(counts: DeviceTokenCounts, request: Request, has_prompt: bool = True) -> None:
    """Assert that the request's row follows from its tokens."""
    output = torch.tensor(request.token_ids[request.num_prompt_tokens :], dtype=torch.int64)
    index = counts.index(request)
    assert torch.equal(counts.counts[index].cpu().long(), output.bincount(minlength=VOCAB))
    prompt = set(request.token_ids[: request.num_prompt_tokens]) if has_prompt else set()
    assert set(counts.prompts[index].cpu().nonzero().flatten().tolist()) == prompt


def test_a_row_catches_up_with_its_output(
    make_request: MakeRequest, device: Device, counts: DeviceTokenCounts
) -> None:
    """Calling again changes nothing; what was only prepared is prepared again."""
    request = make_request((4, 4, 6), params=PENALTIES)
    for output in ([], [7, 7, 4], [], [29]):
        request.token_ids += output
        assert len(counts.columns([request])["output"]) == len(output)
        for _ in range(2):
            catch_up(counts, device, request)
            assert_counted(counts, request)


def test_rows_double_and_keep_what_they_hold(
    make_request: MakeRequest, device: Device, counts: DeviceTokenCounts
) -> None:
    """A resumed request arrives with its whole output."""
    requests = [make_request((index,), params=PENALTIES) for index in range(5)]
    for index, request in enumerate(requests):
        request.token_ids += [index + 10] * index
        catch_up(counts, device, *requests[: index + 1])
    assert len(counts.counts) == 8
    for request in requests:
        assert_counted(counts, request)


def test_a_dead_requests_row_is_used_again(
    make_request: MakeRequest, device: Device, counts: DeviceTokenCounts
) -> None:
    """Without what it held before."""
    request = make_request((1, 2), params=PENALTIES)
    request.token_ids += [3, 3]
    catch_up(counts, device, request)
    del request
    gc.collect()
    follower = make_request((8,), params=SamplingParams(presence_penalty=1.0))
    follower.token_ids += [9]
    catch_up(counts, device, follower)
    assert len(counts.counts) == 1
    assert_counted(counts, follower, has_prompt=False)


def test_a_step_that_runs_again_chooses_the_same(make_request: MakeRequest, device: Device) -> None:
    """Also after a step in which the request had no part, as while it was preempted."""
    sampler = TokenSampler(device, VOCAB, 2)
    params = SamplingParams(max_tokens=64, temperature=0.0, frequency_penalty=0.3)
    first, second = (make_request(params=params) for _ in range(2))
    logits = torch.linspace(0.0, 1.0, VOCAB).repeat(2, 1)
    for draws in ([first], [first, second], [second], [second], [second, first], [first]):
        rows = logits[: len(draws)]
        sampled = on_device(device, sampler, rows, list(map(Draw, draws)))
        assert sampled == on_cpu(rows, list(map(Draw, draws)))
        assert sampled == on_device(device, sampler, rows, list(map(Draw, draws)))
        for request, token_id in zip(draws, sampled.token_ids, strict=True):
            assert token_id is not None
            request.token_ids.append(token_id)


def test_what_is_remembered_ends_with_the_request(
    make_request: MakeRequest, device: Device
) -> None:
    """A request that is gone leaves nothing behind."""
    sampler = TokenSampler(device, VOCAB, 2)
    params = SamplingParams(repetition_penalty=1.2, allowed_token_ids=(1,))
    request = make_request(params=params)
    on_device(device, sampler, torch.zeros(1, VOCAB), [Draw(request)])
    assert "1 requests, 1 on the device" in repr(sampler) and "1 of 2 slots" in repr(sampler)
    del request
    gc.collect()
    assert "0 requests, 0 on the device" in repr(sampler) and "0 of 2 slots" in repr(sampler)
