"""Products with weights of four bits against float64."""

from typing import Any

import pytest
import torch

from services.generator.kernels import reference_linear
from services.generator.kernels.checks import KernelError
from services.generator.kernels.linear_w4a16 import linear_awq, linear_gptq
from tests.generator.kernels.compare import FLOATS, assert_near
from tests.generator.kernels.packing import quantised

DTYPES = pytest.mark.parametrize(
    "dtype", [*FLOATS, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)]
)
HALVES = pytest.mark.parametrize(
    "dtype", [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)]
)
FORMATS = pytest.mark.parametrize("is_awq", [False, True], ids=["gptq", "awq"])


def multiplied(is_awq: bool, x: torch.Tensor, **given: Any) -> torch.Tensor:
    return linear_awq(x, **given) if is_awq else linear_gptq(x, **given)


@DTYPES
@FORMATS
@pytest.mark.parametrize("rows", [0, 1, 3, 16, 33])
@pytest.mark.parametrize(
    ("columns", "depth", "group"),
    [(72, 64, 32), (40, 256, 128), (104, 104, 104), (8, 192, 96)],
)
def test_a_product_is_that_of_the_unpacked_weights(
    rows: int,
    columns: int,
    depth: int,
    group: int,
    is_awq: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Groups of 32, 96, 128 and of all; columns and depths that are no multiples of tiles."""
    given, weight = quantised(columns, depth, group, is_awq, device)
    x = torch.randn(rows, depth, device=device).to(dtype)
    bias = torch.randn(columns, device=device).to(dtype)
    out = multiplied(is_awq, x, **given, bias=bias)
    assert out.dtype == dtype and out.shape == (rows, columns)
    assert_near("out", out, reference_linear.linear(x, weight, bias))


@FORMATS
def test_the_references_unpack_what_was_packed(is_awq: bool, device: torch.device) -> None:
    """Both formats, and both of GPTQ's zeros."""
    for zero_offset in (0, 1):
        given, weight = quantised(16, 64, 32, is_awq, device, zero_offset)
        if is_awq:
            assert torch.equal(reference_linear.awq_weight(**given), weight)
        else:
            actual = reference_linear.gptq_weight(**given, zero_offset=zero_offset)
            assert torch.equal(actual, weight)


def test_zeros_of_gptq_v2_are_stored_as_they_are(device: torch.device) -> None:
    """The classic format stores one less."""
    given, weight = quantised(16, 64, 32, False, device, zero_offset=0)
    x = torch.randn(2, 64, device=device)
    assert_near("out", linear_gptq(x, **given, zero_offset=0), reference_linear.linear(x, weight))


@HALVES
@FORMATS
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_deep_product_is_summed_in_parts_and_the_same_each_time(
    has_bias: bool, is_awq: bool, dtype: torch.dtype, device: torch.device
) -> None:
    """Few columns of much depth are split over programs."""
    given, weight = quantised(24, 1152, 128, is_awq, device)
    x = torch.randn(3, 1152, device=device).to(dtype)
    bias = torch.randn(24, device=device).to(dtype) if has_bias else None
    out = multiplied(is_awq, x, **given, bias=bias)
    assert_near("out", out, reference_linear.linear(x, weight, bias))
    assert torch.equal(out, multiplied(is_awq, x, **given, bias=bias))


@FORMATS
@HALVES
def test_many_tokens_take_large_tiles(
    is_awq: bool, dtype: torch.dtype, device: torch.device
) -> None:
    """More tiles of tokens than run through the columns together, the last of each partly used."""
    given, weight = quantised(136, 64, 32, is_awq, device)
    x = torch.randn(1030, 64, device=device).to(dtype)
    assert_near("out", multiplied(is_awq, x, **given), reference_linear.linear(x, weight))


@FORMATS
def test_rows_may_lie_apart(is_awq: bool, device: torch.device) -> None:
    """Columns of a wider tensor are read in place."""
    given, weight = quantised(24, 64, 32, is_awq, device)
    x = torch.randn(3, 100, dtype=torch.float16, device=device)[:, 7:71]
    assert_near("out", multiplied(is_awq, x, **given), reference_linear.linear(x, weight))


@FORMATS
@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("x", lambda x: x[0]),
        ("x", lambda x: x.double()),
        ("x", lambda x: x.T.contiguous().T),
        ("qweight", lambda words: words[:-1]),
        ("qweight", lambda words: words[:, :-1]),
        ("qweight", lambda words: words.long()),
        ("qweight", lambda words: words.T.contiguous().T),
        ("qzeros", lambda zeros: zeros[:-1]),
        ("qzeros", lambda zeros: zeros.repeat(1, 2)),
        ("qzeros", lambda zeros: zeros.short()),
        ("scales", lambda scales: scales[:, :-1]),
        ("scales", lambda scales: scales[:0]),
        ("scales", lambda scales: scales.repeat(2, 1)),
        ("scales", lambda scales: scales[0].repeat(5, 1)),
        ("scales", lambda scales: scales.double()),
        ("scales", lambda scales: scales.T.contiguous().T),
        ("bias", lambda bias: bias[:-1]),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    argument: str, change: Any, is_awq: bool, device: torch.device
) -> None:
    """Shapes, dtypes and layouts; groups of 16, and five of them in 64."""
    given, _ = quantised(16, 64, 32, is_awq, device)
    given["x"] = torch.randn(2, 64, device=device)
    given["bias"] = torch.randn(16, device=device)
    given[argument] = change(given[argument])
    with pytest.raises(KernelError) as caught:
        multiplied(is_awq, **given)
    assert caught.value.argument == argument


def test_act_order_is_refused_by_name(device: torch.device) -> None:
    """And so are zeros of a format that is not known."""
    given, _ = quantised(16, 64, 32, False, device)
    x = torch.randn(2, 64, device=device)
    with pytest.raises(KernelError, match="act-order") as caught:
        linear_gptq(x, **given, g_idx=torch.arange(64, device=device) // 32)
    assert caught.value.argument == "g_idx"
    with pytest.raises(KernelError) as caught:
        linear_gptq(x, **given, zero_offset=2)
    assert caught.value.argument == "zero_offset"


@pytest.mark.gpu
@FORMATS
@pytest.mark.parametrize("rows", [1, 16, 64, 256])
def test_a_layer_of_llama(rows: int, is_awq: bool, device: torch.device) -> None:
    """The down projection of an 8B model."""
    given, weight = quantised(4096, 14336, 128, is_awq, device)
    x = torch.randn(rows, 14336, dtype=torch.bfloat16, device=device)
    assert_near("out", multiplied(is_awq, x, **given), reference_linear.linear(x, weight))


@pytest.mark.gpu
@FORMATS
def test_offsets_may_exceed_31_bits(is_awq: bool, device: torch.device) -> None:
    """The last row of `x` and of the result, of more than 2**31 elements each."""
    given, weight = quantised(2**15, 32, 32, is_awq, device)
    x = torch.randn(2**16 + 1, 2**15 + 32, dtype=torch.float16, device=device)[:, :32]
    out = multiplied(is_awq, x, **given)
    assert_near("out", out[-1:], reference_linear.linear(x[-1:], weight))
