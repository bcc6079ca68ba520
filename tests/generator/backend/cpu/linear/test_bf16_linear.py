"""The compiled bfloat16 product against float64, and bit by bit against itself."""

import pytest
import torch

from services.generator.backend.cpu.huge_pages import HugePages
from services.generator.backend.cpu.linear.bf16_linear import NativeBf16Linear, bf16_linear
from services.generator.backend.cpu.native import compiler
from services.generator.model.linear import Linear

# also where there is AMX, although products are oneDNN's there
LIBRARY = compiler.library("bf16_linear")
SERVES = LIBRARY is not None and LIBRARY.bf16_serves()
NEEDS_KERNEL = pytest.mark.skipif(not SERVES, reason="no AVX512_BF16 or compiler")
SHAPES = pytest.mark.parametrize(
    ("inputs", "outputs"), [(2, 1), (64, 31), (576, 96), (1536, 577), (130, 1000)]
)


def random_linear(
    inputs: int, outputs: int, biased: bool = False
) -> tuple[Linear, torch.Tensor, torch.Tensor | None]:
    """Return a product with its weight and bias."""
    torch.manual_seed(inputs)
    weight = (torch.randn(outputs, inputs) / inputs**0.5).bfloat16()
    bias = torch.randn(outputs).bfloat16() if biased else None
    assert LIBRARY is not None
    return NativeBf16Linear(LIBRARY, weight, bias, HugePages()), weight, bias


@NEEDS_KERNEL
@SHAPES
@pytest.mark.parametrize("rows", [1, 2, 11, 12, 13, 70])
@pytest.mark.parametrize("biased", [False, True])
def test_a_product_is_the_sum_rounded_once(
    inputs: int, outputs: int, rows: int, biased: bool
) -> None:
    """Against float64, with a bias and a residual, within half a unit and what sums lose."""
    linear, weight, bias = random_linear(inputs, outputs, biased)
    x, residual = torch.randn(rows, inputs).bfloat16(), torch.randn(rows, outputs).bfloat16()
    expected = x.double() @ weight.double().T
    if bias is not None:
        expected += bias.double()
    torch.testing.assert_close(linear(x).double(), expected, rtol=2**-8, atol=1e-4)
    torch.testing.assert_close(
        linear.add_to(x, residual).double(), expected + residual.double(), rtol=2**-8, atol=1e-4
    )


@NEEDS_KERNEL
@SHAPES
def test_a_row_has_the_same_bits_beside_any_others(inputs: int, outputs: int) -> None:
    """Alone, in calls of every size and at any place in them, on one thread and on two."""
    linear, _, _ = random_linear(inputs, outputs)
    x, residual = torch.randn(40, inputs).bfloat16(), torch.randn(40, outputs).bfloat16()
    whole, added = linear(x), linear.add_to(x, residual)
    num_threads = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for rows in range(1, 40):
                assert torch.equal(linear(x[-rows:]), whole[-rows:])
                assert torch.equal(linear.add_to(x[:rows], residual[:rows]), added[:rows])
    finally:
        torch.set_num_threads(num_threads)


@NEEDS_KERNEL
def test_rows_of_a_wider_tensor_are_read_in_place() -> None:
    """A slice of columns, as attention's output may be, and no rows at all."""
    linear, _, _ = random_linear(64, 40)
    wide = torch.randn(5, 100).bfloat16()
    assert torch.equal(linear(wide[:, 3:67]), linear(wide[:, 3:67].contiguous()))
    assert linear(wide[:0, :64]).shape == (0, 40)


def test_what_it_does_not_serve_is_left_to_others() -> None:
    """float32, and an odd number of inputs."""
    assert bf16_linear(torch.zeros(32, 2)) is None
    assert bf16_linear(torch.zeros(32, 3, dtype=torch.bfloat16)) is None
