"""Products of weights of 4 and 8 bits with rows of 8 bits, at every level of this processor."""

from collections.abc import Iterator

import pytest
import torch

from services.generator.backend.cpu.linear.grouped_linear import (
    NativeGroupedLinear,
    grouped_linear,
)
from services.generator.backend.cpu.native import levels
from services.generator.model.checkpoint.grouped_weight import GroupedWeight
from tests.generator.backend.cpu.kernels import needs

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
# bits, inputs of a group, whether it has offsets, whether float16 holds scales and offsets
FORMATS = [
    (bits, group, has_offsets, are_halves)
    for bits in (4, 8)
    for group in (16, 32)
    for has_offsets in (False, True)
    for are_halves in (False, True)
]
# whole and partial panels and columns, blocks and groups
SHAPES = [(96, 64), (33, 37), (5, 1), (50, 144)]

pytestmark = needs("grouped_linear")


@pytest.fixture(params=[level.name for level in levels.available()], autouse=True)
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    before = levels.current()
    levels.use(request.param)
    yield request.param
    levels.use(before.name if before else levels.TORCH)


def random_weight(
    outputs: int, inputs: int, bits: int, group: int, has_offsets: bool, are_halves: bool
) -> GroupedWeight:
    generator = torch.Generator().manual_seed(outputs * 1000 + inputs)
    least, most = (-8, 8) if bits == 4 else (-128, 128)
    values = torch.randint(least, most, (outputs, inputs), generator=generator).to(torch.int8)
    shape = (outputs, -(-inputs // group))
    scales = torch.rand(shape, generator=generator) / 10
    offsets = torch.randn(shape, generator=generator) / 10
    if are_halves:
        scales, offsets = scales.half().float(), offsets.half().float()
    return GroupedWeight(values, scales, offsets if has_offsets else None, group, bits)


def layer(
    weight: GroupedWeight,
    dtype: torch.dtype = torch.float32,
    bias: torch.Tensor | None = None,
    exact: bool = False,
) -> NativeGroupedLinear:
    linear = grouped_linear(weight, dtype, bias, exact=exact)
    assert linear is not None
    return linear


def rounded_rows(x: torch.Tensor) -> torch.Tensor:
    """Return the float64 numbers that rows of 8 bits stand for, in blocks of 32 inputs."""
    blocks = torch.nn.functional.pad(x.float(), (0, -x.shape[1] % 32)).view(len(x), -1, 32)
    largest = blocks.abs().amax(2, keepdim=True)
    inverse = torch.where(largest > 0, torch.tensor(127.0) / largest, 0.0)
    values = (blocks * inverse).round()
    return (values.double() * (largest / 127.0).double()).view(len(x), -1)[:, : x.shape[1]]


@DTYPES
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_products_are_those_of_the_rounded_rows(
    form: tuple[int, int, bool, bool], shape: tuple[int, int], dtype: torch.dtype
) -> None:
    """What weights stand for is not rounded; neither is anything that a block sums."""
    weight = random_weight(*shape, *form)
    bias = torch.randn(shape[0])
    linear = layer(weight, dtype, bias)
    x, residual = torch.randn(19, shape[1]).to(dtype), torch.randn(19, shape[0]).to(dtype)
    expected = rounded_rows(x) @ weight.dequantized(torch.float64).t() + bias
    near = {"rtol": 1e-5, "atol": 1e-5 * float(expected.abs().max())}
    tolerance = near if dtype == torch.float32 else {}
    torch.testing.assert_close(linear(x), expected.to(dtype), **tolerance)
    added = linear.add_to(x, residual)
    torch.testing.assert_close(added, (expected + residual).to(dtype), **tolerance)


@DTYPES
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_exact_products_round_no_row(
    form: tuple[int, int, bool, bool], shape: tuple[int, int], dtype: torch.dtype
) -> None:
    """Only the sums are rounded, as in any float32 product."""
    weight = random_weight(*shape, *form)
    bias = torch.randn(shape[0])
    x, residual = torch.randn(27, shape[1]).to(dtype), torch.randn(27, shape[0]).to(dtype)
    expected = x.double() @ weight.dequantized(torch.float64).t() + bias + residual
    added = layer(weight, dtype, bias, exact=True).add_to(x, residual)
    near = {"rtol": 1e-5, "atol": 1e-5 * float(expected.abs().max())}
    tolerance = near if dtype == torch.float32 else {}
    torch.testing.assert_close(added, expected.to(dtype), **tolerance)


@DTYPES
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("form", [(4, 32, True, True), (8, 16, False, False)], ids=str)
def test_a_row_has_the_same_bits_in_any_batch(
    form: tuple[int, int, bool, bool], exact: bool, dtype: torch.dtype
) -> None:
    """However many rows there are and wherever it lies among them."""
    linear = layer(random_weight(100, 140, *form), dtype, exact=exact)
    x, residual = torch.randn(150, 140).to(dtype), torch.randn(150, 100).to(dtype)
    whole, added = linear(x), linear.add_to(x, residual)
    for count in (*range(1, 18), 63, 64, 65, 128, 150):
        begin = 150 - count
        assert torch.equal(linear(x[begin:]), whole[begin:])
        assert torch.equal(linear.add_to(x[:count], residual[:count]), added[:count])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("extreme", ["least", "most"])
def test_the_largest_sums_are_not_clipped(bits: int, extreme: str) -> None:
    """Every weight and every row at its end, where sums of 16 bits come nearest to theirs."""
    ends = {4: (0, 15), 8: (-128, 127)}[bits]
    values = torch.full((20, 256), ends[extreme == "most"], dtype=torch.int8)
    weight = GroupedWeight(values, torch.ones(20, 8), None, 32, bits)
    for sign in (1.0, -1.0):
        x = torch.full((3, 256), sign)
        torch.testing.assert_close(layer(weight)(x), x @ weight.dequantized(torch.float32).t())


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("exact", [False, True])
def test_a_row_that_is_not_finite_gives_nothing_finite(
    bits: int, value: float, exact: bool
) -> None:
    """A fault upstream is seen, and other rows are not touched."""
    linear = layer(random_weight(40, 64, bits, 32, True, True), exact=exact)
    x = torch.randn(3, 64)
    expected = linear(x)
    x[1, 40] = value
    out = linear(x)
    assert not out[1].isfinite().any()
    assert torch.equal(out[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize(("bits", "most"), [(8, 0.006), (4, 0.09)])
def test_rounding_a_matrix_loses_little(bits: int, most: float) -> None:
    """The relative error of a random matrix, by its root mean square."""
    weight = torch.randn(64, 320, generator=torch.Generator().manual_seed(3))
    error = GroupedWeight.quantized(weight, bits).dequantized(torch.float32) - weight
    assert error.square().mean().sqrt() < most


@pytest.mark.parametrize("bits", [4, 8])
def test_rounding_keeps_zeros_and_constant_groups(bits: int) -> None:
    """A group without a range has no scale to divide by; a padded one is no wider."""
    weight = torch.zeros(3, 40)
    weight[1] = 0.5
    weight[2, 35] = -1.0
    rounded = GroupedWeight.quantized(weight, bits).dequantized(torch.float32)
    torch.testing.assert_close(rounded, weight, rtol=0.01, atol=0.001)
