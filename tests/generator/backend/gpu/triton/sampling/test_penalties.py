"""Penalties on logits against float64."""

import pytest
import torch

from services.generator.backend.gpu.triton.checks import KernelError
from services.generator.backend.gpu.triton.reference import sampling as reference_sampling
from services.generator.backend.gpu.triton.sampling.penalties import apply_penalties
from tests.generator.backend.gpu.triton.compare import Guarded, assert_near


def arguments(rows: int, vocab: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Random logits and penalties; about a third of the tokens occurred."""
    return {
        "logits": torch.randn(rows, vocab, device=device) * 5,
        "token_counts": torch.randint(-4, 4, (rows, vocab), device=device).clamp(min=0).int(),
        "prompt_mask": torch.rand(rows, vocab, device=device) < 0.2,
        "repetition": torch.rand(rows, device=device) + 0.6,
        "frequency": torch.randn(rows, device=device),
        "presence": torch.randn(rows, device=device),
    }


@pytest.mark.parametrize("is_bool", [True, False])
@pytest.mark.parametrize(
    ("rows", "vocab"),
    [(0, 64), (3, 0), (2, 1), (1, 63), (3, 100), (2, 111), (1, 4095), (1, 4096), (2, 4097)],
)
def test_what_occurred_is_penalised_in_place(
    rows: int, vocab: int, is_bool: bool, device: torch.device
) -> None:
    """Nothing around the logits is touched."""
    given = arguments(rows, vocab, device)
    if not is_bool:
        given["prompt_mask"] = given["prompt_mask"].to(torch.uint8)
    expected = reference_sampling.penalized(**given)
    logits = Guarded(given["logits"])
    apply_penalties(**{**given, "logits": logits.tensor})
    logits.check()
    assert_near("logits", logits.tensor, expected)


def test_each_penalty_may_be_off(device: torch.device) -> None:
    """Rows with one penalty each, with none, and with banned tokens."""
    given = arguments(4, 100, device)
    given["repetition"][[0, 1, 3]] = 1.0
    given["frequency"][[1, 2, 3]] = 0.0
    given["presence"][[0, 2, 3]] = 0.0
    given["logits"][:, 10:20] = float("-inf")
    before = given["logits"].clone()
    expected = reference_sampling.penalized(**given)
    apply_penalties(**given)
    assert torch.equal(given["logits"][3], before[3])
    finite = expected.isfinite()
    assert torch.equal(finite, given["logits"].isfinite())
    assert_near("logits", given["logits"][finite], expected[finite])


def test_tokens_that_did_not_occur_keep_their_bits(device: torch.device) -> None:
    """They are not even rewritten."""
    given = arguments(2, 300, device)
    before = given["logits"].clone()
    apply_penalties(**given)
    unseen = (given["token_counts"] == 0) & ~given["prompt_mask"]
    assert torch.equal(given["logits"][unseen], before[unseen])


def test_rows_may_lie_apart(device: torch.device) -> None:
    """Columns of wider tensors are used in place, and the others are left alone."""
    wide = arguments(3, 200, device)
    before = wide["logits"].clone()
    given = {name: t[:, 10:110] if t.ndim == 2 else t for name, t in wide.items()}
    expected = reference_sampling.penalized(**given)
    apply_penalties(**given)
    assert_near("logits", given["logits"], expected)
    assert torch.equal(wide["logits"][:, :10], before[:, :10])
    assert torch.equal(wide["logits"][:, 110:], before[:, 110:])


@pytest.mark.parametrize(
    "argument", ["logits", "token_counts", "prompt_mask", "repetition", "frequency", "presence"]
)
def test_what_is_not_contiguous_is_refused_by_name(argument: str, device: torch.device) -> None:
    """Nothing is copied silently."""
    given = arguments(4, 8, device)
    given[argument] = given[argument].repeat_interleave(2, -1)[..., ::2]
    with pytest.raises(KernelError) as caught:
        apply_penalties(**given)
    assert caught.value.argument == argument


@pytest.mark.gpu
def test_offsets_may_exceed_31_bits(device: torch.device) -> None:
    """The last of more than 2**31 elements, in rows that share their counts."""
    rows, vocab = 2**15 + 1, 2**16
    given = arguments(1, vocab, device)
    logits = torch.zeros(rows, vocab, device=device)
    logits[-1] = given["logits"][0]
    expected = reference_sampling.penalized(**given)
    spread = {name: t.expand(rows, *t.shape[1:]) for name, t in given.items() if t.ndim == 2}
    scalars = {name: t.repeat(rows) for name, t in given.items() if t.ndim == 1}
    apply_penalties(**{**spread, **scalars, "logits": logits})
    assert_near("logits", logits[-1:], expected)
