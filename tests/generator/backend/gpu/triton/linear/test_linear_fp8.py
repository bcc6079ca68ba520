"""Products of eight-bit floats, and quantisation to them, against float64."""

from typing import Any

import pytest
import torch

from services.generator.backend.gpu.triton.checks import KernelError
from services.generator.backend.gpu.triton.linear.linear_fp8 import (
    LEAST_CAPABILITY,
    MAX_WIDTH,
    linear_fp8,
    quantize_fp8,
)
from services.generator.backend.gpu.triton.reference import linear as reference_linear
from tests.generator.backend.gpu.triton.compare import FLOATS, assert_near

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() < LEAST_CAPABILITY,
    reason="needs sm_90",
)
DTYPES = pytest.mark.parametrize("dtype", [*FLOATS, torch.bfloat16])
FP8 = torch.float8_e4m3fn


def operands(rows: int, columns: int, depth: int, device: torch.device) -> dict[str, torch.Tensor]:
    return {
        "x": (torch.randn(rows, depth, device=device) * 64).to(FP8),
        "weight": (torch.randn(columns, depth, device=device) * 64).to(FP8),
        "x_scale": torch.rand(rows, device=device) / 64 + 1e-3,
        "weight_scale": torch.rand(columns, device=device) / 64 + 1e-3,
        "bias": torch.randn(columns, device=device),
    }


@DTYPES
@pytest.mark.parametrize("rows", [0, 1, 3, 16, 33])
@pytest.mark.parametrize(("columns", "depth"), [(63, 100), (70, 128), (130, 111)])
def test_a_product_is_that_of_the_scaled_floats(
    rows: int, columns: int, depth: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Widths and depths that are no multiples of tiles, and no tokens at all."""
    given = operands(rows, columns, depth, device)
    out = linear_fp8(**given, out_dtype=dtype)
    assert out.dtype == dtype and out.shape == (rows, columns)
    assert_near("out", out, reference_linear.linear_fp8(**given))


@pytest.mark.parametrize("x_scale", ["token", "tensor"])
@pytest.mark.parametrize("weight_scale", ["channel", "tensor"])
def test_scales_may_be_of_the_whole_tensor(
    x_scale: str, weight_scale: str, device: torch.device
) -> None:
    """One value, of one dimension or of none."""
    given: dict[str, Any] = operands(3, 40, 64, device) | {"bias": None}
    if x_scale == "tensor":
        given["x_scale"] = given["x_scale"][:1]
    if weight_scale == "tensor":
        given["weight_scale"] = given["weight_scale"][0]
    out = linear_fp8(**given, out_dtype=torch.float32)
    assert_near("out", out, reference_linear.linear_fp8(**given))


@DTYPES
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_deep_product_is_summed_in_parts(
    has_bias: bool, dtype: torch.dtype, device: torch.device
) -> None:
    """Few columns of much depth are split over programs."""
    given: dict[str, Any] = operands(3, 40, 1100, device)
    if not has_bias:
        given["bias"] = None
    out = linear_fp8(**given, out_dtype=dtype)
    assert_near("out", out, reference_linear.linear_fp8(**given))


@pytest.mark.gpu
def test_the_parts_give_the_same_bits_each_time(device: torch.device) -> None:
    """They are summed in one order, without atomics."""
    given = operands(3, 40, 1100, device)
    assert torch.equal(linear_fp8(**given), linear_fp8(**given))


def test_many_tokens_take_large_tiles(device: torch.device) -> None:
    """More tiles of tokens than run through the columns together, the last of each partly used."""
    given = operands(1030, 140, 40, device)
    out = linear_fp8(**given, out_dtype=torch.float16)
    assert_near("out", out, reference_linear.linear_fp8(**given))


def test_rows_may_lie_apart(device: torch.device) -> None:
    """Columns of a wider tensor are read in place."""
    given = operands(3, 40, 200, device)
    given["x"], given["weight"] = given["x"][:, 7:107], given["weight"][:, :100].contiguous()
    out = linear_fp8(**given, out_dtype=torch.float32)
    assert_near("out", out, reference_linear.linear_fp8(**given))


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("x", lambda x: x[0]),
        ("x", lambda x: x.half()),
        ("x", lambda x: x.T.contiguous().T),
        ("weight", lambda weight: weight[:, :-1]),
        ("weight", lambda weight: weight.to(torch.float8_e5m2)),
        ("weight", lambda weight: weight.T.contiguous().T),
        ("x_scale", lambda scale: scale[:-1]),
        ("x_scale", lambda scale: scale.half()),
        ("weight_scale", lambda scale: scale[:-1]),
        ("weight_scale", lambda scale: scale.repeat_interleave(2)[::2]),
        ("bias", lambda bias: bias[:-1]),
        ("out_dtype", lambda _: torch.int8),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    argument: str, change: Any, device: torch.device
) -> None:
    """Shapes, dtypes and layouts."""
    given: dict[str, Any] = operands(4, 32, 48, device)
    given[argument] = change(given.get(argument))
    with pytest.raises(KernelError) as caught:
        linear_fp8(**given)
    assert caught.value.argument == argument


@DTYPES
@pytest.mark.parametrize(("rows", "width"), [(0, 64), (1, 63), (3, 100), (2, 111), (4, 576)])
def test_a_row_is_quantised_to_within_half_a_step(
    rows: int, width: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Of a sixteenth of the value, or of the subnormals' step; the largest becomes 448."""
    x = (torch.randn(rows, width, device=device) * 3).to(dtype)
    out, scales = quantize_fp8(x)
    assert out.shape == x.shape and out.dtype == FP8 and scales.shape == (rows,)
    assert_near("scales", scales, reference_linear.quantize_fp8(x)[1].double())
    wide, scales = x.double(), scales.double()[:, None]
    bound = torch.maximum(wide.abs() / 16, scales / 1024) * (1 + 1e-5)
    assert bool(((out.double() * scales - wide).abs() <= bound).all())
    assert bool((out.double().abs().amax(-1) == 448).all())


def test_quantisation_rounds_as_torch_does(device: torch.device) -> None:
    """Each value of E4M3 and each middle between two, where the scale is one; zeros may be +0."""
    values = torch.arange(127, dtype=torch.uint8, device=device).view(FP8).float()
    middles = (values[1:] + values[:-1]) / 2
    x = torch.cat([values, -values, middles, -middles]).expand(2, -1)
    out, scales = quantize_fp8(x)
    assert torch.equal(scales, torch.ones_like(scales))
    assert torch.equal(out.float(), x.to(FP8).float())


def test_a_row_of_zeros_stays_zero(device: torch.device) -> None:
    """With a scale that is no zero, beside a row that is not."""
    x = torch.zeros(2, 40, device=device)
    x[1] = 2.0
    out, scales = quantize_fp8(x)
    assert bool((out[0].float() == 0).all()) and bool((out[1].float() == 448).all())
    assert bool((scales > 0).all())


def test_quantised_rows_may_lie_apart(device: torch.device) -> None:
    """Columns of a wider tensor are read in place; columns of which are refused."""
    x = torch.randn(3, 100, device=device)
    out, scales = quantize_fp8(x[:, 7:71])
    expected, expected_scales = quantize_fp8(x[:, 7:71].contiguous())
    assert torch.equal(out.view(torch.uint8), expected.view(torch.uint8))
    assert torch.equal(scales, expected_scales)
    for refused in (x[:, ::2], x[0], x.double(), torch.empty(1, MAX_WIDTH + 1, device=device)):
        with pytest.raises(KernelError) as caught:
            quantize_fp8(refused)
        assert caught.value.argument == "x"


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 16, 64, 256])
def test_a_layer_of_llama(rows: int, device: torch.device) -> None:
    """The down projection of an 8B model: sums of 14,336 products keep float32's precision."""
    given = operands(rows, 4096, 14336, device)
    assert_near("out", linear_fp8(**given), reference_linear.linear_fp8(**given))


@pytest.mark.gpu
def test_offsets_may_exceed_31_bits(device: torch.device) -> None:
    """The last row of `x` and of the result, of more than 2**31 elements each."""
    given = operands(2**16 + 1, 2**15, 32, device)
    given["x"] = torch.zeros(2**16 + 1, 2**15 + 32, device=device, dtype=FP8)[:, :32]
    given["x"].copy_(torch.randn(2**16 + 1, 32, device=device).to(FP8))
    out = linear_fp8(**given, out_dtype=torch.float16)
    last = {name: given[name][-1:] for name in ("x", "x_scale")}
    assert_near("out", out[-1:], reference_linear.linear_fp8(**given | last))
    del out
    x = torch.ones(2**16 + 1, 2**15, dtype=torch.float16, device=device)
    x[-1] = torch.randn(2**15, device=device)
    quantised, scales = quantize_fp8(x)
    back = quantised[-1].double() * scales[-1].double()
    assert bool(((back - x[-1].double()).abs() <= x[-1].double().abs().amax() / 16).all())
