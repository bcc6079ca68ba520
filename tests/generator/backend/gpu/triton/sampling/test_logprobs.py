"""Log-probabilities against float64."""

import pytest
import torch

from services.generator.backend.gpu.triton.checks import KernelError
from services.generator.backend.gpu.triton.reference import sampling as reference_sampling
from services.generator.backend.gpu.triton.sampling.logprobs import logprobs
from tests.generator.backend.gpu.triton.compare import assert_near

# numpy, behind the interpreter, warns of infinities and NaN
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])


def compare(logits: torch.Tensor, token_ids: torch.Tensor, num_top: int) -> None:
    """Values are near the reference's, ranks and ids the same, ties included."""
    chosen, rank, values, ids = logprobs(logits, token_ids, num_top)
    expected = reference_sampling.logprobs(logits, token_ids, num_top)
    assert (chosen.dtype, rank.dtype) == (torch.float32, torch.int32)
    assert (values.dtype, ids.dtype) == (torch.float32, torch.int64)
    assert_near("chosen", chosen, expected[0])
    assert torch.equal(rank.long(), expected[1])
    assert_near("values", values, expected[2])
    assert torch.equal(ids, expected[3])


@DTYPES
@pytest.mark.parametrize(
    ("rows", "vocab", "num_top"),
    [
        *((0, 64, 3), (0, 64, 0), (3, 1, 1), (1, 63, 0), (3, 100, 1), (1, 111, 32), (1, 20, 20)),
        *((1, 2047, 5), (1, 2048, 6), (2, 2049, 10), (1, 4097, 4)),
    ],
)
def test_the_chosen_token_and_the_best_are_described(
    rows: int, vocab: int, num_top: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Narrow logits have many ties, whose lower ids come first."""
    logits = (torch.randn(rows, vocab, device=device) * 3 - 10).to(dtype)
    compare(logits, torch.randint(vocab, (rows,), device=device), num_top)


def test_a_long_vocabulary_takes_many_tiles(device: torch.device) -> None:
    """Qwen3's, where rows lie apart."""
    logits = torch.randn(1, 152_000, device=device).bfloat16()[:, 8:151_944]
    compare(logits, torch.tensor([150_000], device=device), 3)


def test_equal_best_logits_are_told_by_id(device: torch.device) -> None:
    """Across tiles and within, zeros of both signs included."""
    logits = torch.full((2, 2100), -1.0, device=device)
    logits[0, [5, 700, 2090]] = 4.0
    logits[1, [3, 2095]] = 0.0
    logits[1, [9, 2080]] = -0.0
    ids = logprobs(logits, torch.tensor([700, 3], device=device), 4)[3]
    assert ids.tolist() == [[5, 700, 2090, 0], [3, 9, 2080, 2095]]


def test_banned_tokens_come_last_and_once(device: torch.device) -> None:
    """Ids do not repeat where the rest is -inf."""
    logits = torch.full((1, 2200), float("-inf"), device=device)
    logits[0, 2100] = 1.5
    chosen, rank, values, ids = logprobs(logits, torch.tensor([7], device=device), 4)
    assert chosen.item() == float("-inf") and rank.item() == 2
    assert values.tolist() == [[0.0, *[float("-inf")] * 3]]
    assert ids.tolist() == [[2100, 0, 1, 2]]


def test_an_id_outside_the_vocabulary_has_no_rank(device: torch.device) -> None:
    """As padding rows have it; a row with NaN has no log-probability either."""
    logits = torch.randn(3, 100, device=device)
    logits[2, 50] = float("nan")
    chosen, rank, values, _ = logprobs(logits, torch.tensor([-1, 100, 3], device=device), 2)
    assert chosen.isnan().all() and rank[:2].tolist() == [0, 0]
    assert values[:2].isfinite().all() and values[2].isnan().all()


@pytest.mark.parametrize("argument", ["logits", "token_ids", "num_top"])
def test_what_is_not_taken_is_refused_by_name(argument: str, device: torch.device) -> None:
    """Strides are not copied away, and no more than 32 are found."""
    logits = torch.randn(4, 80, device=device)
    token_ids = torch.zeros(8, dtype=torch.int64, device=device)
    with pytest.raises(KernelError) as caught:
        logprobs(
            logits[:, ::2] if argument == "logits" else logits,
            token_ids[::2] if argument == "token_ids" else token_ids[:4],
            33 if argument == "num_top" else 2,
        )
    assert caught.value.argument == argument


@pytest.mark.gpu
def test_offsets_may_exceed_31_bits(device: torch.device) -> None:
    """The last of more than 2**31 elements."""
    logits = torch.zeros(2**15 + 1, 2**16, dtype=torch.float16, device=device)
    logits[-1] = torch.randn(2**16, device=device)
    token_ids = torch.full((2**15 + 1,), 60_000, device=device)
    chosen, rank, values, ids = logprobs(logits, token_ids, 3)
    expected = reference_sampling.logprobs(logits[-1:], token_ids[-1:], 3)
    assert_near("chosen", chosen[-1:], expected[0])
    assert torch.equal(rank[-1:].long(), expected[1])
    assert_near("values", values[-1:], expected[2])
    assert torch.equal(ids[-1:], expected[3])
