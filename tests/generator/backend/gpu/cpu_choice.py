"""The token choice as the CPU makes it, in the form that the device's results have."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from services.generator.backend.gpu.device import Device
from services.generator.backend.gpu.sampling.token_sampler import TokenChoice
from services.generator.backend.sampling.beam_candidates import beam_candidates, num_candidates
from services.generator.backend.sampling.logits_processors import LogitEdits
from services.generator.backend.sampling.logprobs import token_logprobs
from services.generator.backend.sampling.sampler import sample
from services.generator.engine.draw import Draw
from services.generator.engine.token_logprobs import Candidate, TokenLogprobs


class Choice(NamedTuple):
    """Tokens, and by row what else was asked for."""

    token_ids: list[int | None]
    logprobs: dict[int, TokenLogprobs]
    candidates: dict[int, list[Candidate]]


def on_cpu(logits: torch.Tensor, draws: Sequence[Draw]) -> Choice:
    """Choose with the CPU's parts, which remember nothing from before."""
    described = [row for row, draw in enumerate(draws) if draw.params.logprobs is not None]
    beams = [row for row, draw in enumerate(draws) if draw.request.beams is not None]
    edited = LogitEdits().apply(logits.clone(), draws)
    token_ids = sample(edited, draws)
    chosen = [token_ids[row] or 0 for row in described]
    counts = [draws[row].params.logprobs or 0 for row in described]
    logprobs = token_logprobs(logits[described], chosen, counts)
    candidates: list[list[Candidate]] = []
    if beams:
        totals = logits[beams].float().logsumexp(dim=1, keepdim=True)
        wanted = [num_candidates(draws[row].request) for row in beams]
        candidates = beam_candidates(edited[beams], totals, wanted)
    return Choice(
        token_ids,
        dict(zip(described, logprobs, strict=True)),
        dict(zip(beams, candidates, strict=True)),
    )


def on_device(
    device: Device, choice: TokenChoice, logits: torch.Tensor, draws: Sequence[Draw]
) -> Choice:
    """Choose on the device and wait."""
    choice.turn()
    chosen = choice.launch(logits.to(device.device), draws)
    device.mark()()
    return Choice(chosen.token_ids(), chosen.logprobs(), chosen.candidates())


def assert_same_logprobs(
    actual: Sequence[TokenLogprobs], expected: Sequence[TokenLogprobs]
) -> None:
    """Ids and ranks are equal, values near."""
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        assert (one.token_id, one.rank, one.top_token_ids) == (
            (other.token_id, other.rank, other.top_token_ids)
        )
        values = torch.tensor([one.logprob, *one.top_logprobs])
        due = torch.tensor([other.logprob, *other.top_logprobs])
        torch.testing.assert_close(values, due, rtol=0, atol=1e-5)


def assert_same(actual: Choice, expected: Choice) -> None:
    """What is told of rows that are finite is the same."""
    assert actual.token_ids == expected.token_ids
    assert actual.logprobs.keys() == expected.logprobs.keys()
    finite = [row for row in expected.logprobs if expected.token_ids[row] is not None]
    assert_same_logprobs(
        [actual.logprobs[row] for row in finite], [expected.logprobs[row] for row in finite]
    )
    assert actual.candidates.keys() == expected.candidates.keys()
    for row, due in expected.candidates.items():
        found = actual.candidates[row]
        assert [c.token_id for c in found] == [c.token_id for c in due]
        values, wanted = (torch.tensor([c.logprob for c in some]) for some in (found, due))
        torch.testing.assert_close(values, wanted, rtol=0, atol=1e-5)
