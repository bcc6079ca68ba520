"""Embeddings against float64."""

import pytest
import torch

from services.generator.backend.gpu.triton.checks import KernelError
from services.generator.backend.gpu.triton.elementwise.embedding import embedding
from services.generator.backend.gpu.triton.reference import elementwise as reference
from tests.generator.backend.gpu.triton.compare import FLOATS, assert_near

DTYPES = pytest.mark.parametrize("dtype", [*FLOATS, torch.bfloat16])
SHAPES = pytest.mark.parametrize(
    ("tokens", "width"), [(0, 64), (1, 63), (3, 111), (2, 1025), (63, 100), (100, 1), (111, 128)]
)


def random_ids(tokens: int, vocabulary: int, device: torch.device) -> torch.Tensor:
    """Return ids of which some are outside the vocabulary, at both ends."""
    return torch.randint(-2, vocabulary + 2, (tokens,), device=device)


@DTYPES
@SHAPES
def test_rows_are_copied(tokens: int, width: int, dtype: torch.dtype, device: torch.device) -> None:
    """Bit for bit, and zeros for ids outside the vocabulary."""
    ids = random_ids(tokens, 10, device)
    table = torch.randn(10, width, device=device).to(dtype)
    out = embedding(ids, table)
    assert out.dtype == dtype
    assert torch.equal(out.double(), reference.embedding(ids, table))


@DTYPES
@SHAPES
def test_rows_are_scaled(tokens: int, width: int, dtype: torch.dtype, device: torch.device) -> None:
    """As Gemma's are, by 32-bit ids."""
    ids = random_ids(tokens, 10, device).int()
    table = torch.randn(10, width, device=device).to(dtype)
    scale = width**0.5
    assert_near("out", embedding(ids, table, scale), reference.embedding(ids, table, scale))


@pytest.mark.parametrize("token", [-(2**40), -1, 10, 2**32, 2**40 + 3])
def test_ids_outside_the_vocabulary_give_zeros(token: int, device: torch.device) -> None:
    """Also those whose lower 32 bits are inside."""
    out = embedding(torch.tensor([token, 3], device=device), torch.ones(10, 8, device=device))
    assert out.tolist() == [[0.0] * 8, [1.0] * 8]


@pytest.mark.gpu
@DTYPES
@pytest.mark.parametrize("tokens", [4096, 32768])
def test_long_prompts_are_embedded(tokens: int, dtype: torch.dtype, device: torch.device) -> None:
    """A table of real size."""
    ids = random_ids(tokens, 32000, device)
    table = torch.randn(32000, 2560, device=device).to(dtype)
    assert torch.equal(embedding(ids, table).double(), reference.embedding(ids, table))


def test_rows_may_lie_apart(device: torch.device) -> None:
    """A table may be columns of a wider one."""
    ids, table = random_ids(5, 10, device), torch.randn(10, 300, device=device)[:, 20:221]
    assert torch.equal(embedding(ids, table).double(), reference.embedding(ids, table))


@pytest.mark.parametrize(
    ("argument", "ids", "table"),
    [
        ("token_ids", torch.zeros(8, dtype=torch.int64)[::2], torch.ones(4, 4)),
        ("token_ids", torch.zeros(4), torch.ones(4, 4)),
        ("token_ids", torch.zeros(4, 1, dtype=torch.int64), torch.ones(4, 4)),
        ("table", torch.zeros(4, dtype=torch.int64), torch.ones(4, 8)[:, ::2]),
        ("table", torch.zeros(4, dtype=torch.int64), torch.ones(4, 4, dtype=torch.int8)),
    ],
)
def test_what_it_does_not_take_is_refused_by_name(
    argument: str, ids: torch.Tensor, table: torch.Tensor, device: torch.device
) -> None:
    """Nothing is copied silently."""
    with pytest.raises(KernelError) as caught:
        embedding(ids.to(device), table.to(device))
    assert caught.value.argument == argument


@pytest.mark.gpu
def test_offsets_may_exceed_31_bits(device: torch.device) -> None:
    """The last row of a table of more than 2**31 elements."""
    table = torch.zeros(2**17 + 1, 2**14, dtype=torch.float16, device=device)
    table[-1] = torch.randn(2**14, device=device)
    ids = torch.tensor([0, 2**17], device=device)
    assert torch.equal(embedding(ids, table).double(), reference.embedding(ids, table))
