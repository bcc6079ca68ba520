"""Tokens that were drawn become the next step's inputs."""

import pytest
import torch

from services.generator.backend.gpu.triton.checks import KernelError
from services.generator.backend.gpu.triton.elementwise.feed_tokens import feed_tokens


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 1000])
def test_rows_with_a_source_take_what_was_drawn(count: int, device: torch.device) -> None:
    """The others keep their tokens; a row may take what another takes too."""
    drawn = torch.randint(0, 2**40, (31,), device=device)
    ids = torch.randint(0, 2**40, (count,), device=device)
    sources = torch.randint(-31, 31, (count,), device=device)
    expected = torch.where(sources >= 0, drawn[sources.clamp(min=0)], ids)
    feed_tokens(ids, sources, drawn)
    assert torch.equal(ids, expected)


@pytest.mark.parametrize(
    ("argument", "ids", "sources", "drawn"),
    [
        ("token_ids", torch.zeros(4, dtype=torch.int32), torch.zeros(4).long(), torch.ones(2)),
        ("sources", torch.zeros(4).long(), torch.zeros(3).long(), torch.ones(2).long()),
        ("drawn", torch.zeros(4).long(), torch.zeros(4).long(), torch.ones(4).long()[::2]),
    ],
)
def test_what_it_does_not_take_is_refused_by_name(
    argument: str,
    ids: torch.Tensor,
    sources: torch.Tensor,
    drawn: torch.Tensor,
    device: torch.device,
) -> None:
    """Nothing is read out of place."""
    with pytest.raises(KernelError) as caught:
        feed_tokens(ids.to(device), sources.to(device), drawn.to(device))
    assert caught.value.argument == argument
