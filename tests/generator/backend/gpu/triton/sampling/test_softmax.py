"""Softmax over a vocabulary against float64."""

import pytest
import torch

from services.generator.backend.gpu.triton.checks import KernelError
from services.generator.backend.gpu.triton.reference import sampling as reference_sampling
from services.generator.backend.gpu.triton.sampling.softmax import softmax
from tests.generator.backend.gpu.triton.compare import assert_near

# numpy, behind the interpreter, warns of infinities and NaN
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
SHAPES = [(0, 64), (3, 1), (1, 63), (3, 100), (2, 111), (2, 4095), (1, 4096), (2, 4097)]


@DTYPES
@pytest.mark.parametrize(("rows", "vocab"), SHAPES)
def test_probabilities_are_those_at_the_rows_temperature(
    rows: int, vocab: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Vocabularies of one tile and of several, logits far from zero."""
    logits = (torch.randn(rows, vocab, device=device) * 6 + 80).to(dtype)
    temperature = torch.rand(rows, device=device) * 1.5 + 0.2
    out = softmax(logits, temperature)
    assert out.dtype == torch.float32
    assert_near("out", out, reference_sampling.softmax(logits, temperature))


def test_a_long_vocabulary_takes_many_tiles(device: torch.device) -> None:
    """Qwen3's, where rows lie apart."""
    logits = torch.randn(1, 152_000, device=device)[:, 7:151_943]
    temperature = torch.tensor([0.7], device=device)
    out = softmax(logits, temperature)
    assert_near("out", out, reference_sampling.softmax(logits, temperature))


def test_banned_tokens_get_nothing_and_temperature_0_gives_the_best_all(
    device: torch.device,
) -> None:
    """A whole tile may be banned; equal best share."""
    logits = torch.randn(3, 4200, device=device)
    logits[:, :4100] = float("-inf")
    logits[1, 4150] = logits[1, 4160] = 9.0
    temperature = torch.tensor([1.0, 0.0, 0.0], device=device)
    out = softmax(logits, temperature)
    assert not out[:, :4100].any()
    assert_near("out", out, reference_sampling.softmax(logits, temperature))
    assert out[1, 4150] == out[1, 4160] == 0.5


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_becomes_nan(bad: float, device: torch.device) -> None:
    """Its neighbours do not."""
    logits = torch.randn(3, 100, device=device)
    logits[1, 40] = bad
    out = softmax(logits, torch.ones(3, device=device))
    assert out[1].isnan().all()
    assert out[0].isfinite().all() and out[2].isfinite().all()


@pytest.mark.parametrize("argument", ["logits", "temperature"])
def test_what_is_not_contiguous_is_refused_by_name(argument: str, device: torch.device) -> None:
    """Nothing is copied silently."""
    tensors = {"logits": torch.ones(4, 8), "temperature": torch.ones(4)}
    tensors[argument] = tensors[argument].repeat_interleave(2, -1)[..., ::2]
    with pytest.raises(KernelError) as caught:
        softmax(tensors["logits"].to(device), tensors["temperature"].to(device))
    assert caught.value.argument == argument


@pytest.mark.gpu
def test_offsets_may_exceed_31_bits(device: torch.device) -> None:
    """The last of more than 2**31 elements."""
    logits = torch.zeros(2**15 + 1, 2**16, dtype=torch.float16, device=device)
    logits[-1] = torch.randn(2**16, device=device)
    temperature = torch.ones(2**15 + 1, device=device)
    out = softmax(logits, temperature)
    assert_near("out", out[-1:], reference_sampling.softmax(logits[-1:], temperature[-1:]))
