"""Sampling on the CPU and on a device, with results of the same form."""

from collections.abc import Sequence

import torch

from services.generator.backend.cpu import token_sampler as cpu_token_sampler
from services.generator.backend.gpu.device import Device
from services.generator.backend.gpu.sampling.token_sampler import TokenSampler
from services.generator.engine.draw import Draw
from services.generator.engine.results import Choices
from services.generator.engine.token_logprobs import TokenLogprobs


def on_cpu(logits: torch.Tensor, draws: Sequence[Draw]) -> Choices:
    """Sample with the CPU's sampler, which remembers nothing from before."""
    return cpu_token_sampler.TokenSampler().sample(logits.clone(), draws)


def on_device(
    device: Device, sampler: TokenSampler, logits: torch.Tensor, draws: Sequence[Draw]
) -> Choices:
    """Sample on the device and wait."""
    sampler.turn()
    sampled = sampler.launch(logits.to(device.device), draws)
    device.mark()()
    return sampled.choices()


def assert_same_logprobs(
    actual: Sequence[TokenLogprobs], expected: Sequence[TokenLogprobs], atol: float = 1e-5
) -> None:
    """Ids and ranks are equal, values near."""
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        assert (one.token_id, one.rank, one.top_token_ids) == (
            (other.token_id, other.rank, other.top_token_ids)
        )
        values = torch.tensor([one.logprob, *one.top_logprobs])
        due = torch.tensor([other.logprob, *other.top_logprobs])
        torch.testing.assert_close(values, due, rtol=0, atol=atol)


def assert_same(actual: Choices, expected: Choices) -> None:
    """Tokens and, of rows that are finite, log-probabilities and candidates are the same."""
    assert actual.token_ids == expected.token_ids
    assert actual.logprobs.keys() == expected.logprobs.keys()
    finite = [row for row in expected.logprobs if expected.token_ids[row] is not None]
    assert_same_logprobs(
        [actual.logprobs[row] for row in finite], [expected.logprobs[row] for row in finite]
    )
    assert actual.candidates.keys() == expected.candidates.keys()
    for row, due in expected.candidates.items():
        candidates = actual.candidates[row]
        assert [c.token_id for c in candidates] == [c.token_id for c in due]
        values, wanted = (torch.tensor([c.logprob for c in some]) for some in (candidates, due))
        torch.testing.assert_close(values, wanted, rtol=0, atol=1e-5)
