"""RMS norm against float64."""

import pytest
import torch

from services.generator.backend.gpu.triton.checks import KernelError
from services.generator.backend.gpu.triton.elementwise.rms_norm import rms_norm
from services.generator.backend.gpu.triton.reference import elementwise as reference_elementwise
from tests.generator.backend.gpu.triton.compare import FLOATS, assert_near

DTYPES = pytest.mark.parametrize(
    "dtype", [*FLOATS, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)]
)
SHAPES = pytest.mark.parametrize(
    ("rows", "width"), [(0, 64), (1, 63), (3, 100), (2, 111), (4, 576)]
)


@DTYPES
@SHAPES
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_a_row_is_divided_by_its_root_mean_square(
    rows: int, width: int, dtype: torch.dtype, offset: float, device: torch.device
) -> None:
    """Widths that are no powers of two, no rows at all, and Gemma's weights."""
    x = torch.randn(rows, width, device=device).to(dtype)
    weight = torch.randn(width, device=device).to(dtype)
    out = rms_norm(x, weight, 1e-5, offset)
    assert out.dtype == dtype
    assert_near("out", out, reference_elementwise.rms_norm(x, weight, 1e-5, offset))


def test_rows_may_lie_apart(device: torch.device) -> None:
    """Columns of a wider tensor are read in place."""
    wide = torch.randn(3, 200, device=device)
    x, weight = wide[:, 10:110], torch.ones(100, device=device)
    assert_near("out", rms_norm(x, weight, 1e-5), reference_elementwise.rms_norm(x, weight, 1e-5))


@pytest.mark.parametrize("argument", ["x", "weight"])
def test_what_is_not_contiguous_is_refused_by_name(argument: str, device: torch.device) -> None:
    """Nothing is copied silently."""
    tensors = {
        "x": torch.randn(8, 8, device=device),
        "weight": torch.randn(16, device=device)[:8],
    }
    whole = torch.randn(8, 16, device=device)
    tensors[argument] = whole[0, ::2] if argument == "weight" else whole[:, ::2]
    with pytest.raises(KernelError) as caught:
        rms_norm(tensors["x"], tensors["weight"], 1e-5)
    assert caught.value.argument == argument


@pytest.mark.gpu
def test_offsets_may_exceed_31_bits(device: torch.device) -> None:
    """The last of more than 2**31 elements."""
    rows, width = 2**17 + 1, 2**14
    x = torch.ones(rows, width, dtype=torch.float16, device=device)
    x[-1] = torch.randn(width, device=device)
    weight = torch.ones(width, dtype=torch.float16, device=device)
    out = rms_norm(x, weight, 1e-5)
    assert_near("out", out[-1:], reference_elementwise.rms_norm(x[-1:], weight, 1e-5))
