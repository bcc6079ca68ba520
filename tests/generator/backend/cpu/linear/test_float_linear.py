"""Products of float32 rows with weights of 32 and 16 bits, at every level of this processor."""

from collections.abc import Iterator

import pytest
import torch

from services.generator.backend.cpu.linear.float_linear import NativeFloatLinear, float_linear
from services.generator.backend.cpu.native import levels
from tests.generator.backend.cpu.kernels import needs

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# whole and partial panels and columns; even and odd inputs
SHAPES = [(96, 64), (33, 37), (5, 1), (200, 130)]

pytestmark = needs("float_linear")


@pytest.fixture(params=[level.name for level in levels.available()])
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    before = levels.current()
    levels.use(request.param)
    yield request.param
    levels.use(before.name if before else levels.TORCH)


def layer(
    outputs: int, inputs: int, dtype: torch.dtype, has_bias: bool = True
) -> tuple[NativeFloatLinear, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(outputs * 1000 + inputs)
    weight = (torch.randn(outputs, inputs, generator=generator) / inputs**0.5).to(dtype)
    bias = torch.randn(outputs, generator=generator) if has_bias else torch.zeros(outputs)
    linear = float_linear(weight, bias if has_bias else None)
    assert linear is not None
    return linear, weight, bias


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_are_exact_but_for_rounding_sums(
    level: str, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    """Weights stand for what they are in their dtype; the sum, bias and residual are float32."""
    linear, weight, bias = layer(*shape, dtype)
    x, residual = torch.randn(17, shape[1]), torch.randn(17, shape[0])
    expected = x.double() @ weight.double().t() + bias
    torch.testing.assert_close(linear(x).double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        linear.add_to(x, residual).double(), expected + residual, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_has_the_same_bits_in_any_batch(level: str, dtype: torch.dtype) -> None:
    """However many rows there are and wherever it lies among them."""
    linear, _, _ = layer(200, 131, dtype)
    x, residual = torch.randn(230, 131), torch.randn(230, 200)
    whole, added = linear(x), linear.add_to(x, residual)
    for count in (*range(1, 26), 96, 97, 192, 193, 230):
        begin = 230 - count
        assert torch.equal(linear(x[begin:]), whole[begin:])
        assert torch.equal(linear.add_to(x[:count], residual[:count]), added[:count])


def test_levels_of_one_width_agree(level: str) -> None:
    """The order of a sum is that of the inputs at every level, so its bits are the same."""
    linear, weight, bias = layer(64, 96, torch.bfloat16)
    x = torch.randn(9, 96, generator=torch.Generator().manual_seed(1))
    levels.use(levels.available()[0].name)
    lowest = float_linear(weight, bias)
    assert lowest is not None
    assert torch.equal(linear(x), lowest(x))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_extreme_weights_keep_their_values(level: str, dtype: torch.dtype) -> None:
    """Subnormals, the largest numbers, zeros of both signs, infinity and NaN come through."""
    info = torch.finfo(dtype)
    values = [info.tiny, info.tiny / 2, -info.smallest_normal, info.max, 0.0, -0.0]
    weight = torch.tensor([*values, float("inf"), float("nan")], dtype=dtype).repeat(5)[:, None]
    linear = float_linear(weight)
    assert linear is not None
    torch.testing.assert_close(
        linear(torch.ones(1, 1))[0], weight[:, 0].float(), rtol=0, atol=0, equal_nan=True
    )


def test_rows_may_lie_apart(level: str) -> None:
    """A slice of wider rows is read where it is."""
    linear, _, _ = layer(48, 20, torch.bfloat16)
    wide = torch.randn(7, 64)
    assert torch.equal(linear(wide[:, 11:31]), linear(wide[:, 11:31].contiguous()))


def test_a_level_that_is_not_here_is_refused() -> None:
    """The message names what this processor has."""
    with pytest.raises(levels.LevelError, match="torch"):
        levels.use("no such level")
