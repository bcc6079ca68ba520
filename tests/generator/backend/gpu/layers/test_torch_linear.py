"""Products of float weights on the device against float64."""

import pytest
import torch

from services.generator.backend.gpu.device import Device
from services.generator.backend.gpu.layers.torch_linear import TorchLinear
from services.generator.backend.gpu.triton.reference import linear as reference_linear
from tests.generator.backend.gpu.triton.compare import assert_near

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
BIASES = pytest.mark.parametrize("has_bias", [False, True])
OUT, IN = 40, 72


@DTYPES
@BIASES
@pytest.mark.parametrize("rows", [0, 1, 5, 64])
def test_a_product_is_that_of_its_weights(
    rows: int, has_bias: bool, dtype: torch.dtype, device: Device
) -> None:
    """Any number of rows, none as well."""
    x, weight, bias, _ = operands(rows, has_bias, dtype, device.device)
    out = TorchLinear(weight, bias)(x)
    assert out.dtype == dtype
    assert_near("out", out, reference_linear.linear(x, weight, bias))


@DTYPES
@BIASES
@pytest.mark.parametrize("rows", [0, 1, 5, 64])
def test_a_product_is_added_in_place(
    rows: int, has_bias: bool, dtype: torch.dtype, device: Device
) -> None:
    """The result is the residual's own memory."""
    x, weight, bias, residual = operands(rows, has_bias, dtype, device.device)
    expected = residual.double() + reference_linear.linear(x, weight, bias)
    out = TorchLinear(weight, bias).add_to(x, residual)
    assert out.data_ptr() == residual.data_ptr()
    assert_near("out", out, expected)


def test_a_weight_may_be_transposed(device: Device) -> None:
    """Some families store matrices [in, out]."""
    x, weight, _, residual = operands(3, False, torch.float32, device.device)
    linear = TorchLinear(weight.t().contiguous().t())
    expected = reference_linear.linear(x, weight)
    assert_near("out", linear(x), expected)
    assert_near("sum", linear.add_to(x, residual.clone()), residual.double() + expected)


def operands(
    rows: int, has_bias: bool, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
    torch.manual_seed(rows)
    x = torch.randn(rows, IN, device=device).to(dtype)
    weight = torch.randn(OUT, IN, device=device).to(dtype)
    bias = torch.randn(OUT, device=device).to(dtype) if has_bias else None
    return x, weight, bias, torch.randn(rows, OUT, device=device).to(dtype)
