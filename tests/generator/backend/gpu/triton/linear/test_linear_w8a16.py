"""Products with weights of eight bits against float64."""

from typing import Any

import pytest
import torch

from services.generator.backend.gpu.triton.checks import KernelError
from services.generator.backend.gpu.triton.linear.linear_w8a16 import linear_w8a16
from services.generator.backend.gpu.triton.reference import linear as reference_linear
from tests.generator.backend.gpu.triton.compare import FLOATS, assert_near

DTYPES = pytest.mark.parametrize(
    "dtype", [*FLOATS, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)]
)
HALVES = pytest.mark.parametrize(
    "dtype", [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)]
)


def operands(
    rows: int, columns: int, depth: int, dtype: torch.dtype, device: torch.device
) -> dict[str, torch.Tensor]:
    return {
        "x": torch.randn(rows, depth, device=device).to(dtype),
        "weight": torch.randint(-128, 128, (columns, depth), dtype=torch.int8, device=device),
        "scales": torch.rand(columns, device=device) / 64 + 1e-3,
        "bias": torch.randn(columns, device=device).to(dtype),
    }


@DTYPES
@pytest.mark.parametrize("rows", [0, 1, 3, 16, 17, 33])
@pytest.mark.parametrize(("columns", "depth"), [(63, 100), (70, 128), (64, 111), (130, 1)])
def test_a_product_is_that_of_the_widened_weights(
    rows: int, columns: int, depth: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Widths and depths that are no multiples of tiles, and no tokens at all."""
    given = operands(rows, columns, depth, dtype, device)
    out = linear_w8a16(**given)
    assert out.dtype == dtype and out.shape == (rows, columns)
    assert_near("out", out, reference_linear.linear_w8a16(**given))


@HALVES
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("depth", [1024, 1100])
def test_a_deep_product_is_summed_in_parts(
    depth: int, has_bias: bool, dtype: torch.dtype, device: torch.device
) -> None:
    """Few columns of much depth are split over programs."""
    given: dict[str, Any] = operands(3, 40, depth, dtype, device)
    if not has_bias:
        given["bias"] = None
    assert_near("out", linear_w8a16(**given), reference_linear.linear_w8a16(**given))


@pytest.mark.gpu
def test_the_parts_give_the_same_bits_each_time(device: torch.device) -> None:
    """They are summed in one order, without atomics."""
    given = operands(3, 40, 1024, torch.bfloat16, device)
    assert torch.equal(linear_w8a16(**given), linear_w8a16(**given))


@HALVES
def test_many_tokens_take_large_tiles(dtype: torch.dtype, device: torch.device) -> None:
    """More tiles of tokens than run through the columns together, the last of each partly used."""
    given = operands(1030, 140, 40, dtype, device)
    assert_near("out", linear_w8a16(**given), reference_linear.linear_w8a16(**given))


def test_rows_may_lie_apart(device: torch.device) -> None:
    """Columns of a wider tensor are read in place."""
    given = operands(3, 40, 200, torch.float16, device)
    given["x"], given["weight"] = given["x"][:, 7:107], given["weight"][:, :100].contiguous()
    assert_near("out", linear_w8a16(**given), reference_linear.linear_w8a16(**given))


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("x", lambda x: x[0]),
        ("x", lambda x: x.double()),
        ("x", lambda x: x.T.contiguous().T),
        ("weight", lambda weight: weight[:, :-1]),
        ("weight", lambda weight: weight.short()),
        ("weight", lambda weight: weight.T.contiguous().T),
        ("weight", lambda weight: weight[0]),
        ("scales", lambda scales: scales[:-1]),
        ("scales", lambda scales: scales.half()),
        ("scales", lambda scales: scales.repeat_interleave(2)[::2]),
        ("bias", lambda bias: bias[:-1]),
        ("bias", lambda bias: bias.double()),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    argument: str, change: Any, device: torch.device
) -> None:
    """Shapes, dtypes and layouts."""
    given = operands(4, 32, 48, torch.float16, device)
    given[argument] = change(given[argument])
    with pytest.raises(KernelError) as caught:
        linear_w8a16(**given)
    assert caught.value.argument == argument


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 16, 64, 256])
def test_a_layer_of_llama(rows: int, device: torch.device) -> None:
    """The down projection of an 8B model."""
    given = operands(rows, 4096, 14336, torch.bfloat16, device)
    assert_near("out", linear_w8a16(**given), reference_linear.linear_w8a16(**given))


@pytest.mark.gpu
def test_offsets_may_exceed_31_bits(device: torch.device) -> None:
    """The last of more than 2**31 elements of `x`, of `weight` and of the result."""
    given = operands(2**16 + 1, 2**15, 16, torch.float16, device)
    out = linear_w8a16(**given)
    assert_near("out", out[-1:], reference_linear.linear_w8a16(**given | {"x": given["x"][-1:]}))
    del out
    given = operands(1, 2**11 + 1, 2**20, torch.float16, device)
    given["x"] = given["x"].expand(2, -1).contiguous() / 1024
    last = {name: given[name][-1:] for name in ("weight", "scales", "bias")}
    expected = reference_linear.linear_w8a16(given["x"], **last)
    assert_near("weight", linear_w8a16(**given)[:, -1:], expected)
    wide = torch.randn(2**11 + 1, 2**20 + 16, device=device, dtype=torch.float16)
    given = operands(1, 64, 128, torch.float16, device) | {"x": wide[:, :128]}
    assert_near(
        "x",
        linear_w8a16(**given)[-1:],
        reference_linear.linear_w8a16(**given | {"x": given["x"][-1:]}),
    )
