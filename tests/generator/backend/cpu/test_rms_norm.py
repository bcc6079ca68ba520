"""Root mean square norms against torch's own, and bit by bit against themselves."""

import pytest
import torch
from torch.nn import functional

from services.generator.backend.cpu.rms_norm import RMSNorm
from tests.generator.backend.cpu.kernels import torch_and_compiled

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
KERNELS = torch_and_compiled("rms_norm")


@KERNELS
@DTYPES
@pytest.mark.parametrize("width", [1, 5, 16, 64, 100, 576])
@pytest.mark.parametrize("rows", [0, 1, 7, 300])
def test_a_norm_is_what_float64_says(
    kernels: str, dtype: torch.dtype, width: int, rows: int
) -> None:
    """Of rows in a wider tensor as well."""
    torch.manual_seed(width)
    x, weight = torch.randn(rows, width + 3).to(dtype)[:, 2:-1], torch.randn(width).to(dtype)
    expected = functional.rms_norm(x.double(), (width,), weight.double(), 1e-5)
    out = RMSNorm(weight, 1e-5, kernels)(x)
    assert out.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 2**-8
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=1e-5)


@KERNELS
@DTYPES
def test_a_row_has_the_same_bits_beside_any_others(kernels: str, dtype: torch.dtype) -> None:
    """In any number of rows and at any place among them, with more threads than one."""
    torch.manual_seed(0)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        norm, x = RMSNorm(torch.randn(576), 1e-5, kernels), torch.randn(100, 576).to(dtype)
        whole = norm(x)
        for rows in (1, 2, 3, 28, 29, 64):
            assert torch.equal(norm(x[:rows]), whole[:rows])
            assert torch.equal(norm(x[-rows:]), whole[-rows:])
    finally:
        torch.set_num_threads(num_threads)


def test_an_offset_keeps_the_digits_of_a_small_weight() -> None:
    """A float32 weight keeps them, whatever the rows are."""
    x, weight = torch.randn(3, 32), torch.full((32,), 1e-3).bfloat16()
    plain = functional.rms_norm(x, (32,), None, 1e-6)
    torch.testing.assert_close(RMSNorm(1.0 + weight.float(), 1e-6)(x), plain * (1 + weight.float()))
