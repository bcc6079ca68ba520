"""Random draws on the device: from which tokens, and how reproducibly."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from services.generator.backend.gpu.device import Device
from services.generator.backend.gpu.sampling.token_sampler import TokenSampler
from services.generator.backend.gpu.triton.reference import sampling as reference_sampling
from services.generator.backend.sampling.logits_processors import LogitsProcessors
from services.generator.engine import SamplingParams
from services.generator.engine.draw import Draw
from services.generator.engine.request import Request
from tests.generator.backend.gpu.both_samplers import on_device

# numpy, behind the interpreter, warns of infinities and of the logarithm of 0
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

MakeRequest = Callable[..., Request]

VOCAB = 100
KINDS: list[dict[str, Any]] = [
    {"temperature": 3.0, "top_k": 4},
    {"temperature": 2.0, "top_p": 0.5},
    {"temperature": 3.0, "min_p": 0.3},
    {"top_k": 2**40, "top_p": 0.6, "min_p": 0.1, "bad_token_ids": (3,)},
    {"temperature": 9.0, "allowed_token_ids": (3, 5, 8), "presence_penalty": 1.0},
    {"top_p": 1e-300},
]


@pytest.fixture
def sampler(device: Device) -> TokenSampler:
    return TokenSampler(device, VOCAB, 8)


def warm(make_request: MakeRequest, seed: int, **params: Any) -> Draw:
    """Make a request that samples; return the draw of its next token."""
    return Draw(make_request((3, 3), seed=seed, params=SamplingParams(max_tokens=64, **params)))


def left(logits: torch.Tensor, draws: list[Draw]) -> torch.Tensor:
    """Return bool [S, V]: what the CPU's edits and a plain reference of the filters leave."""
    params = [draw.params for draw in draws]
    edited = LogitsProcessors().apply(logits.clone(), draws)
    kept = reference_sampling.kept(
        edited,
        torch.tensor([p.temperature for p in params]),
        torch.tensor([min(p.top_k, VOCAB) for p in params]),
        torch.tensor([p.top_p for p in params]),
        torch.tensor([p.min_p for p in params]),
    )
    return kept & edited.isfinite()


def test_only_what_the_filters_leave_is_drawn(
    make_request: MakeRequest, device: Device, sampler: TokenSampler
) -> None:
    """And of that more than one token, where more is left."""
    logits = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(0)) * 2
    logits[0, 3] = 9.0
    draws = [warm(make_request, seed, **kind) for seed in range(2) for kind in KINDS]
    rows = logits.repeat(len(draws), 1)
    possible = left(rows, draws)
    drawn = on_device(device, sampler, rows, draws).token_ids
    assert all(possible[row, token_id] for row, token_id in enumerate(drawn))
    # the last kind leaves one token
    several = [set(drawn[kind :: len(KINDS)]) for kind in range(len(KINDS) - 1)]
    assert any(len(tokens) > 1 for tokens in several)


def test_a_seed_draws_alike_whatever_else_is_in_the_batch(
    make_request: MakeRequest, device: Device, sampler: TokenSampler
) -> None:
    """A draw follows from its row, its seed of 64 bits and its place in the output."""
    logits = torch.randn(4, VOCAB, generator=torch.Generator().manual_seed(1))
    seeds = (7, 2**64 - 1, 2**63, -5)
    draws = [warm(make_request, seed) for seed in seeds]
    alone = [
        on_device(device, sampler, logits[row : row + 1], [draw]).token_ids[0]
        for row, draw in enumerate(draws)
    ]
    others: list[dict[str, Any]] = [{"top_k": 3}, {"bad_token_ids": (1,)}, {"logprobs": 2}]
    mixed = [*(warm(make_request, 0, **kind) for kind in others), *draws]
    rows = torch.cat((torch.zeros(3, VOCAB), logits))
    assert on_device(device, sampler, rows, mixed).token_ids[3:] == alone
    same = [warm(make_request, seed % 2**64) for seed in seeds]
    assert on_device(device, sampler, logits, same).token_ids == alone


def test_the_random_numbers_are_those_of_seed_and_place(
    make_request: MakeRequest, device: Device, sampler: TokenSampler
) -> None:
    """64 bits of the seed count; after drafts a token is drawn as later, when they are tokens."""
    requests = [warm(make_request, seed).request for seed in (0, 1, 2**32, 2**63, -1)]
    draws = [*map(Draw, requests), *(Draw(requests[3], (1,) * count) for count in (1, 2))]
    due = [
        reference_sampling.gumbel(draw.request.seed % 2**64, draw.output_index, VOCAB).argmax()
        for draw in draws
    ]
    equal = torch.zeros(len(draws), VOCAB)
    assert on_device(device, sampler, equal, draws).token_ids == due
    requests[3].token_ids += [1, 1]
    assert on_device(device, sampler, equal[:1], draws[3:4]).token_ids == due[-1:]


def test_a_very_high_temperature_is_uniform(
    make_request: MakeRequest, device: Device, sampler: TokenSampler
) -> None:
    """Higher than float32 holds; banned tokens stay banned."""
    allowed = tuple(range(0, VOCAB, 2))
    params = {"temperature": 1e300, "allowed_token_ids": allowed}
    draws = [warm(make_request, seed, **params) for seed in range(8)]
    drawn = on_device(device, sampler, torch.randn(8, VOCAB) * 9, draws).token_ids
    assert set(drawn) <= set(allowed) and len(set(drawn)) > 3
