"""int8 products against float64, kernel against torch, and bit by bit against themselves."""

import pytest
import torch

from services.generator.backend.cpu.linear.int8_linear import (
    NativeInt8Linear,
    TorchInt8Linear,
    _float_product,
    int8_linear,
)
from services.generator.backend.cpu.native import compiler
from services.generator.model.quantize import quantize_rows

LIBRARY = compiler.library("int8_linear")
HAS_KERNEL = LIBRARY is not None and LIBRARY.int8_serves()
KERNELS = pytest.mark.parametrize(
    "kernels",
    [
        "torch",
        pytest.param(
            "auto", marks=pytest.mark.skipif(not HAS_KERNEL, reason="no AVX512-VNNI or compiler")
        ),
    ],
)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
SHAPES = pytest.mark.parametrize(("inputs", "outputs"), [(64, 128), (37, 51), (3, 1), (576, 90)])


@KERNELS
@DTYPES
@SHAPES
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_product_is_that_of_the_rounded_numbers(
    kernels: str, dtype: torch.dtype, inputs: int, outputs: int, has_bias: bool
) -> None:
    """In any number of rows: what float64 gives for weights and rows rounded to 8 bits."""
    torch.manual_seed(0)
    weight, x = torch.randn(outputs, inputs).to(dtype), torch.randn(40, inputs).to(dtype)
    bias = torch.randn(outputs).to(dtype) if has_bias else None
    residual = torch.randn(40, outputs).to(dtype)
    linear = int8_linear(weight, bias, kernels)
    (data, units), (whole, scales) = quantize_rows(x), quantize_rows(weight)
    expected = (data.double() @ whole.double().t()) * units.double().unsqueeze(1) * scales.double()
    if bias is not None:
        expected += bias.double()
    tolerance = {"rtol": 1e-5, "atol": 1e-4} if dtype == torch.float32 else {}
    for rows in (1, 2, 3, 4, 5, 6, 7, 12, 40):
        out, added = linear(x[:rows]), linear.add_to(x[:rows], residual[:rows])
        assert out.dtype == dtype
        torch.testing.assert_close(out, expected[:rows].to(dtype), **tolerance)
        wanted = (expected[:rows] + residual[:rows]).to(dtype)
        torch.testing.assert_close(added, wanted, **tolerance)


@KERNELS
@pytest.mark.parametrize("inputs", [2, 64, 3072])
def test_the_largest_products_are_not_clipped(kernels: str, inputs: int) -> None:
    """Sums of 127 times 127, as of -127, which processors without VNNI would add in 16 bits."""
    x, weight = torch.ones(5, inputs), torch.ones(20, inputs)
    x[1::2] = -1.0
    expected = inputs * x[:, :1].expand(5, 20)
    torch.testing.assert_close(int8_linear(weight, None, kernels)(x), expected)


@pytest.mark.parametrize("inputs", [1, 1024, 3000])
def test_floats_give_the_integers(inputs: int) -> None:
    """What serves where torch's int8 product is wrong is exact, at the largest sums too."""
    torch.manual_seed(0)
    x = torch.randint(-127, 128, (5, inputs), dtype=torch.int8)
    weight = torch.randint(-127, 128, (inputs, 33), dtype=torch.int8)
    x[0], weight[:, 0] = 127, -127
    expected = x.double() @ weight.double()
    assert torch.equal(_float_product(x, weight).double(), expected)


@KERNELS
@DTYPES
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_row_has_the_same_bits_beside_any_others(
    kernels: str, dtype: torch.dtype, threads: int
) -> None:
    """Alone, in batches of any size, at any place, with any number of threads."""
    torch.manual_seed(0)
    linear = int8_linear(torch.randn(200, 3072).to(dtype), torch.randn(200).to(dtype), kernels)
    x, residual = torch.randn(50, 3072).to(dtype), torch.randn(50, 200).to(dtype)
    plain, added = linear(x), linear.add_to(x, residual)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for rows in range(1, 50):
            some = slice(50 - rows, 50)
            assert torch.equal(linear(x[some]), plain[some])
            assert torch.equal(linear.add_to(x[some], residual[some]), added[some])
    finally:
        torch.set_num_threads(num_threads)


@KERNELS
def test_rounding_loses_little(kernels: str) -> None:
    """A product of normal numbers is off by about a hundredth of its spread."""
    torch.manual_seed(0)
    weight, x = torch.randn(256, 1024), torch.randn(20, 1024)
    expected = x @ weight.t()
    error = int8_linear(weight, None, kernels)(x) - expected
    assert error.std() / expected.std() < 0.015


@KERNELS
@DTYPES
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_row_that_is_not_finite_stays_so(kernels: str, dtype: torch.dtype, bad: float) -> None:
    """None of its outputs is finite, and its neighbours are as without it."""
    torch.manual_seed(0)
    linear = int8_linear(torch.randn(33, 50).to(dtype), None, kernels)
    x = torch.randn(8, 50).to(dtype)
    expected = linear(x)
    x[3, 17] = bad
    out = linear(x)
    assert not out[3].isfinite().any()
    others = [0, 1, 2, 4, 5, 6, 7]
    assert torch.equal(out[others], expected[others])


@KERNELS
def test_zeros_and_no_rows(kernels: str) -> None:
    """A row or an output of zeros gives zeros; no rows give none."""
    weight = torch.randn(17, 20)
    weight[5] = 0.0
    linear = int8_linear(weight, None, kernels)
    out = linear(torch.cat((torch.zeros(1, 20), torch.randn(1, 20))))
    assert (out[0] == 0.0).all()
    assert out[1, 5] == 0.0
    assert linear(torch.empty(0, 20)).shape == (0, 17)


@KERNELS
def test_views_are_read_in_place(kernels: str) -> None:
    """Rows may lie apart, and a weight may be a transposed view."""
    torch.manual_seed(0)
    wide, stored = torch.randn(5, 60), torch.randn(30, 44)
    view = int8_linear(stored.t(), None, kernels)(wide[:, :30])
    assert torch.equal(
        view, int8_linear(stored.t().contiguous(), None, kernels)(wide[:, :30].clone())
    )


@pytest.mark.skipif(not HAS_KERNEL, reason="no AVX512-VNNI or compiler")
def test_the_kernel_is_taken_where_it_serves() -> None:
    """Automatically the compiled one, torch's where it is asked for or nothing is compiled."""
    weight = torch.randn(4, 4)
    assert isinstance(int8_linear(weight), NativeInt8Linear)
    assert isinstance(int8_linear(weight, None, "torch"), TorchInt8Linear)
