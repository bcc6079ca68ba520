"""Products with weights of four bits against float64."""

from typing import Any

import pytest
import torch

from services.generator.backend.gpu.triton.checks import KernelError
from services.generator.backend.gpu.triton.linear.int4_packing import pack_int4, pack_words
from services.generator.backend.gpu.triton.linear.linear_w4a16 import linear_w4a16
from services.generator.backend.gpu.triton.reference import linear as reference_linear
from tests.generator.backend.gpu.triton.compare import FLOATS, assert_near
from tests.generator.backend.gpu.triton.packing import rounded

DTYPES = pytest.mark.parametrize(
    "dtype", [*FLOATS, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)]
)
HALVES = pytest.mark.parametrize(
    "dtype", [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)]
)


def quantised(
    columns: int, depth: int, group: int, device: torch.device
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return words and units, and the weight [N, K] that they stand for."""
    values, zeros, scales = rounded(columns, depth, group, device)
    words, units = pack_int4(values, zeros, scales)
    return {"words": words, "units": units}, reference_linear.w4a16_weight(values, zeros, scales)


@DTYPES
@pytest.mark.parametrize("rows", [0, 1, 3, 16, 33])
@pytest.mark.parametrize(
    ("columns", "depth", "group"),
    [(72, 64, 32), (40, 256, 128), (103, 107, 107), (8, 192, 96)],
)
def test_a_product_is_that_of_the_unpacked_weights(
    rows: int, columns: int, depth: int, group: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Groups of 32, 96, 128 and of all; columns and depths that are no multiples of tiles."""
    given, weight = quantised(columns, depth, group, device)
    x = torch.randn(rows, depth, device=device).to(dtype)
    bias = torch.randn(columns, device=device).to(dtype)
    out = linear_w4a16(x, **given, bias=bias)
    assert out.dtype == dtype and out.shape == (rows, columns)
    assert_near("out", out, reference_linear.linear(x, weight, bias))


def with_offsets(
    columns: int, depth: int, dtype: torch.dtype, device: torch.device, group: int = 32
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return words, scales and offsets, and the weight [N, K] that they stand for.

    Scales have 17 significant bits, as Q4_K's, or those of `dtype`; some are negative.
    """
    values = torch.randint(0, 16, (depth, columns), device=device)
    steps = torch.randn(2, -(-depth // group), columns, device=device).half().float() / 8
    pairs = (steps * torch.randint(1, 64, steps.shape, device=device)).to(dtype)
    given = {"words": pack_words(values), "units": torch.stack(tuple(pairs), -1)}
    return given, reference_linear.w4a16_offset_weight(values, *pairs, group)


@DTYPES
@pytest.mark.parametrize("offset_dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("rows", [1, 3, 33])
@pytest.mark.parametrize(
    ("columns", "depth", "group"),
    [(72, 64, 32), (103, 107, 32), (40, 256, 128), (24, 1152, 32), (8, 24, 24)],
)
def test_a_product_with_offsets_is_that_of_the_weights_they_stand_for(
    rows: int,
    columns: int,
    depth: int,
    group: int,
    offset_dtype: torch.dtype,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """No digit of a scale is lost; the last group may not be full, and depths may be split."""
    given, weight = with_offsets(columns, depth, offset_dtype, device, group)
    x = torch.randn(rows, depth, device=device).to(dtype)
    bias = torch.randn(columns, device=device).to(dtype)
    expected = reference_linear.linear(x, weight, bias)
    assert_near("out", linear_w4a16(x, **given, bias=bias), expected)
    assert_near("out", linear_w4a16(x, **given), expected - bias.double())


@HALVES
def test_many_tokens_with_offsets_take_large_tiles(
    dtype: torch.dtype, device: torch.device
) -> None:
    """More tiles of tokens than run through the columns together, the last of each partly used."""
    given, weight = with_offsets(136, 64, torch.float32, device)
    x = torch.randn(1030, 64, device=device).to(dtype)
    assert_near("out", linear_w4a16(x, **given), reference_linear.linear(x, weight))


@pytest.mark.parametrize(
    "change",
    [
        lambda units: units.int(),
        lambda units: units.bfloat16(),
        lambda units: units[:, :, :1],
        lambda units: units[:1, :, 0].repeat(3, 1),
        lambda units: units.transpose(0, 1).contiguous().transpose(0, 1),
    ],
)
def test_offsets_that_do_not_fit_are_refused_by_name(change: Any, device: torch.device) -> None:
    """One beside each scale, and of its dtype."""
    given, _ = with_offsets(16, 64, torch.float32, device)
    given["units"] = change(given["units"])
    with pytest.raises(KernelError) as caught:
        linear_w4a16(torch.randn(2, 64, device=device), **given)
    assert caught.value.argument == "units"


@HALVES
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_deep_product_is_summed_in_parts(
    has_bias: bool, dtype: torch.dtype, device: torch.device
) -> None:
    """Few columns of much depth are split over programs."""
    given, weight = quantised(24, 1152, 128, device)
    x = torch.randn(3, 1152, device=device).to(dtype)
    bias = torch.randn(24, device=device).to(dtype) if has_bias else None
    out = linear_w4a16(x, **given, bias=bias)
    assert_near("out", out, reference_linear.linear(x, weight, bias))


@pytest.mark.gpu
def test_the_parts_give_the_same_bits_each_time(device: torch.device) -> None:
    """They are summed in one order, without atomics."""
    given, _ = quantised(24, 1152, 128, device)
    x = torch.randn(3, 1152, device=device).bfloat16()
    assert torch.equal(linear_w4a16(x, **given), linear_w4a16(x, **given))


@HALVES
def test_many_tokens_take_large_tiles(dtype: torch.dtype, device: torch.device) -> None:
    """More tiles of tokens than run through the columns together, the last of each partly used."""
    given, weight = quantised(136, 64, 32, device)
    x = torch.randn(1030, 64, device=device).to(dtype)
    assert_near("out", linear_w4a16(x, **given), reference_linear.linear(x, weight))


def test_rows_may_lie_apart(device: torch.device) -> None:
    """Columns of a wider tensor are read in place."""
    given, weight = quantised(24, 64, 32, device)
    x = torch.randn(3, 100, dtype=torch.float16, device=device)[:, 7:71]
    assert_near("out", linear_w4a16(x, **given), reference_linear.linear(x, weight))


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("x", lambda x: x[0]),
        ("x", lambda x: x.double()),
        ("x", lambda x: x.T.contiguous().T),
        ("words", lambda words: words[:-1]),
        ("words", lambda words: words[:, :-1]),
        ("words", lambda words: words.flatten(1)),
        ("words", lambda words: words.long()),
        ("words", lambda words: words.transpose(1, 2).contiguous().transpose(1, 2)),
        ("units", lambda units: units[0]),
        ("units", lambda units: units[:0]),
        ("units", lambda units: units.repeat(2, 1)),
        ("units", lambda units: units[0].repeat(5, 1)),
        ("units", lambda units: units.float()),
        ("units", lambda units: units.T.contiguous().T),
        ("bias", lambda bias: bias[:-1]),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    argument: str, change: Any, device: torch.device
) -> None:
    """Shapes, dtypes and layouts; groups of 16, and five of them in 64."""
    given, _ = quantised(16, 64, 32, device)
    given["x"] = torch.randn(2, 64, device=device)
    given["bias"] = torch.randn(16, device=device)
    given[argument] = change(given[argument])
    with pytest.raises(KernelError) as caught:
        linear_w4a16(**given)
    assert caught.value.argument == argument


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 16, 64, 256])
def test_a_layer_of_llama(rows: int, device: torch.device) -> None:
    """The down projection of an 8B model."""
    given, weight = quantised(4096, 14336, 128, device)
    x = torch.randn(rows, 14336, dtype=torch.bfloat16, device=device)
    assert_near("out", linear_w4a16(x, **given), reference_linear.linear(x, weight))


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 64])
@pytest.mark.parametrize("offset_dtype", [torch.float16, torch.float32])
def test_a_layer_of_llama_with_offsets(
    rows: int, offset_dtype: torch.dtype, device: torch.device
) -> None:
    """The down projection of an 8B model, in GGUF's groups of 32."""
    given, weight = with_offsets(4096, 14336, offset_dtype, device)
    x = torch.randn(rows, 14336, dtype=torch.bfloat16, device=device)
    assert_near("out", linear_w4a16(x, **given), reference_linear.linear(x, weight))


@pytest.mark.gpu
def test_offsets_may_exceed_31_bits(device: torch.device) -> None:
    """The last row of `x` and of the result, of more than 2**31 elements each."""
    given, weight = quantised(2**15, 32, 32, device)
    x = torch.randn(2**16 + 1, 2**15 + 32, dtype=torch.float16, device=device)[:, :32]
    out = linear_w4a16(x, **given)
    assert_near("out", out[-1:], reference_linear.linear(x[-1:], weight))
