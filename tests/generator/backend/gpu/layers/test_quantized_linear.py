"""Products of quantised weights against float64 of what the weights stand for."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch

from services.generator.backend.gpu.device import Device
from services.generator.backend.gpu.layers.quantized_linear import (
    Fp8Linear,
    Int8Linear,
    PackedLinear,
)
from services.generator.backend.gpu.triton.linear.linear_fp8 import LEAST_CAPABILITY
from services.generator.backend.gpu.triton.reference import linear as reference_linear
from services.generator.model.checkpoint.packed_weight import PackedWeight
from services.generator.model.linear import Linear
from tests.generator.backend.gpu.triton.compare import assert_near
from tests.generator.backend.gpu.triton.packing import quantised

OUT, IN, GROUP = 40, 96, 32
no_bfloat16 = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="the interpreter computes bfloat16 products wrongly"
)
DTYPES = pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float16, pytest.param(torch.bfloat16, marks=no_bfloat16)],
)
BIASES = pytest.mark.parametrize("has_bias", [False, True])


class Case(NamedTuple):
    """A product, and what it computes of [T, in] rows, in float64."""

    linear: Linear
    expected: Callable[[torch.Tensor], torch.Tensor]


Maker = Callable[[torch.Tensor | None, torch.device], Case]


def int8(bias: torch.Tensor | None, device: torch.device) -> Case:
    """Each output's largest weight is 127 units."""
    weight = torch.randn(OUT, IN, device=device)
    units = weight.abs().amax(1, keepdim=True).double() / 127
    rounded = (weight.double() / units).round() * units
    return Case(Int8Linear(weight, bias), lambda x: reference_linear.linear(x, rounded, bias))


def fp8(bias: torch.Tensor | None, device: torch.device) -> Case:
    """Weights and rows are both rounded."""
    weight = torch.randn(OUT, IN, device=device)
    data, scales = reference_linear.quantize_fp8(weight)

    def expected(x: torch.Tensor) -> torch.Tensor:
        rows, units = reference_linear.quantize_fp8(x)
        return reference_linear.linear_fp8(rows, data, units, scales, bias)

    return Case(Fp8Linear(weight, bias), expected)


def packed(layout: str) -> Maker:
    """Weights as a checkpoint has them."""

    def make(bias: torch.Tensor | None, device: torch.device) -> Case:
        stored, weight = packed_weight(layout, device)
        return Case(PackedLinear(stored, bias), lambda x: reference_linear.linear(x, weight, bias))

    return make


def packed_weight(
    layout: str, device: torch.device, out: int = OUT, group: int = GROUP
) -> tuple[PackedWeight, torch.Tensor]:
    """Return a random one and the matrix [out, in] that it stands for."""
    given, weight = quantised(out, IN, group, layout == "awq", device, int(layout == "gptq"))
    return PackedWeight(layout=layout, **given, group_size=group), weight  # type: ignore[arg-type]


no_fp8 = torch.cuda.is_available() and torch.cuda.get_device_capability() < LEAST_CAPABILITY
CASES = pytest.mark.parametrize(
    "make",
    [
        pytest.param(int8, id="int8"),
        pytest.param(fp8, id="fp8", marks=pytest.mark.skipif(no_fp8, reason="needs sm_90")),
        *(pytest.param(packed(layout), id=layout) for layout in ("gptq", "gptq_v2", "awq")),
    ],
)


@CASES
@DTYPES
@BIASES
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_a_product_is_that_of_the_rounded_weights(
    rows: int, has_bias: bool, dtype: torch.dtype, make: Maker, device: Device
) -> None:
    """Called, and added to a residual in place."""
    torch.manual_seed(rows)
    bias = torch.randn(OUT, device=device.device).to(dtype) if has_bias else None
    case = make(bias, device.device)
    x = torch.randn(rows, IN, device=device.device).to(dtype)
    out = case.linear(x)
    assert out.dtype == dtype
    assert_near("out", out, case.expected(x))
    residual = torch.randn(rows, OUT, device=device.device).to(dtype)
    expected = residual.double() + case.expected(x)
    summed = case.linear.add_to(x, residual)
    assert summed.data_ptr() == residual.data_ptr()
    assert_near("sum", summed, expected)


@pytest.mark.parametrize("layout", ["gptq", "gptq_v2", "awq"])
@pytest.mark.parametrize("group", [GROUP, IN])
def test_a_packed_weight_is_the_matrix_it_stands_for(
    layout: str, group: int, device: Device
) -> None:
    """In groups and in one, to the last bit, for a scale of 11 bits times 5 is exact."""
    stored, weight = packed_weight(layout, device.device, group=group)
    assert stored.shape == (OUT, IN)
    actual = stored.dequantized(torch.float32)
    assert actual.is_contiguous() and torch.equal(actual.double(), weight)
    assert stored.dequantized(torch.bfloat16).equal(weight.float().bfloat16())


@pytest.mark.parametrize("layout", ["gptq", "gptq_v2", "awq"])
def test_packed_weights_are_stacked_by_output(layout: str, device: Device) -> None:
    """Queries, keys and values of different widths are one product."""
    parts = [packed_weight(layout, device.device, out) for out in (40, 8, 16)]
    stored = PackedWeight.stacked([part for part, _ in parts]).to(device.device)
    weight = torch.cat([matrix for _, matrix in parts])
    assert stored.shape == (64, IN)
    assert torch.equal(stored.dequantized(torch.float32).double(), weight)
    x = torch.randn(3, IN, device=device.device)
    assert_near("out", PackedLinear(stored)(x), reference_linear.linear(x, weight))


@CASES
def test_a_captured_product_is_the_same(make: Maker, device: Device) -> None:
    """Nothing waits for the device, and new rows are read."""
    linear = make(None, device.device).linear
    x = torch.randn(5, IN, device=device.device).half()
    out = x.new_empty(5, OUT)

    def work() -> None:
        out.copy_(linear(x))

    [replay] = device.capture(work)
    x.copy_(torch.randn_like(x))
    replay()
    assert_near("out", out, linear(x))
