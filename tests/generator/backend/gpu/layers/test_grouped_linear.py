"""Products of GGUF's weights in groups on the GPU's path, against what the blocks stand for."""

from typing import Any

import numpy as np
import pytest
import torch

from services.generator.backend.gpu.device import Device
from services.generator.backend.gpu.layers.grouped_linear import GroupedLinear
from services.generator.backend.gpu.layers.parts import GpuParts
from services.generator.backend.gpu.triton.reference import linear as reference_linear
from services.generator.model.checkpoint.config import ModelConfig
from services.generator.model.checkpoint.gguf import blocks
from services.generator.model.checkpoint.grouped_weight import GroupedWeight
from tests.generator.backend.gpu.test_engine import SHAPE
from tests.generator.backend.gpu.triton.compare import assert_near
from tests.generator.interpreter import IS_GPU
from tests.generator.model.checkpoint.gguf.q4_k import q4_k_tensor
from tests.generator.model.checkpoint.gguf.test_blocks import COLUMNS, random_tensor

FOUR_BITS = ["Q4_0", "Q4_1", "Q4_K"]
DTYPES = pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        torch.float16,
        pytest.param(
            torch.bfloat16,
            marks=pytest.mark.skipif(
                not IS_GPU, reason="the interpreter computes bfloat16 products wrongly"
            ),
        ),
    ],
)


def of_file(kind: str) -> tuple[GroupedWeight, torch.Tensor]:
    """Return a weight of random blocks, and what the package makes of it in float32."""
    tensor, expected = random_tensor(kind)
    return blocks.grouped("t", tensor), torch.from_numpy(expected.copy())


def parts(device: Device, quantization: str | None = None) -> GpuParts:
    """Return the parts of a small Llama."""
    return GpuParts(ModelConfig.parse(SHAPE, None), device.device, torch.float32, quantization)


@pytest.mark.parametrize("kinds", [*([kind] for kind in FOUR_BITS), FOUR_BITS])
def test_each_weight_counts_with_all_its_bits(kinds: list[str], device: Device) -> None:
    """Rows that pick one input each give the package's numbers, in float32 to the last bit."""
    weights, matrices = zip(*map(of_file, kinds), strict=True)
    linear = GroupedLinear(weights, None, device.device)
    out = linear(torch.eye(COLUMNS, device=device.device)).cpu()
    expected = torch.cat(matrices).t()
    if IS_GPU:  # multiplies and adds in one, rounding once
        assert_near("out", out, expected)
    else:
        assert torch.equal(out, expected)


def test_scales_that_a_unit_does_not_hold_are_kept_all_the_same(device: Device) -> None:
    """An integer zero and a scale of 24 bits become a scale and an offset."""
    torch.manual_seed(1)
    values = torch.randint(-8, 8, (24, 96), dtype=torch.int8)
    weight = GroupedWeight(values, torch.randn(24, 3), None, 32, bits=4)
    out = GroupedLinear([weight], None, device.device)(torch.eye(96, device=device.device))
    assert_near("out", out, weight.dequantized(torch.float64).t())


@DTYPES
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("kinds", [*([kind] for kind in FOUR_BITS), FOUR_BITS])
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_a_product_is_that_of_the_packages_floats(
    rows: int, kinds: list[str], has_bias: bool, dtype: torch.dtype, device: Device
) -> None:
    """Types with integer zeros, with offsets in float16 and in float32, and all in one product."""
    torch.manual_seed(rows)
    weights, matrices = zip(*map(of_file, kinds), strict=True)
    weight = torch.cat(matrices).to(device.device)
    bias = torch.randn(len(weight), device=device.device).to(dtype) if has_bias else None
    linear = GroupedLinear(weights, bias, device.device)
    x = torch.randn(rows, COLUMNS, device=device.device).to(dtype)
    expected = reference_linear.linear(x, weight, bias)
    assert_near("out", linear(x), expected)
    residual = torch.randn(rows, len(weight), device=device.device).to(dtype)
    due = residual.double() + expected
    assert_near("sum", linear.add_to(x, residual), due)


def test_a_blocks_quantiser_is_near_what_it_is_given() -> None:
    """The Q4_K of these tests is read back within a step, and is no easier than real ones."""
    weight = np.random.default_rng(1).standard_normal((4, 512)).astype(np.float32)
    grouped = blocks.grouped("t", q4_k_tensor(weight))
    assert grouped.offsets is not None and len(grouped.scales.unique()) > 30
    error = (grouped.dequantized(torch.float32) - torch.from_numpy(weight)).abs()
    assert error.max() < grouped.scales.max()


@pytest.mark.parametrize("columns", [512, 40])
def test_weights_rounded_at_load_are_those_of_a_cpu(columns: int, device: Device) -> None:
    """In groups of 32 inputs, of which the last may not be full."""
    torch.manual_seed(1)
    weight, bias = torch.randn(48, columns), torch.randn(48)
    linear = parts(device, "int4").linear(weight.to(device.device), bias.to(device.device))
    rounded = GroupedWeight.quantized(weight, 4).dequantized(torch.float32)
    x = torch.randn(3, columns)
    assert isinstance(linear, GroupedLinear)
    assert_near("out", linear(x.to(device.device)), reference_linear.linear(x, rounded, bias))


@pytest.mark.parametrize(
    ("kinds", "names"),
    [
        (["Q4_0", "Q4_1", "Q4_K"], "GroupedLinear"),
        (["Q4_K", "Q4_K", "Q6_K"], "SideBySide(GroupedLinear, TorchLinear)"),
        (["Q8_0", "Q4_0", "Q5_K"], "SideBySide(TorchLinear, GroupedLinear, TorchLinear)"),
        *([[kind], "TorchLinear"] for kind in ("Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q5_K")),
    ],
)
def test_four_bits_stay_packed_and_others_become_floats(
    kinds: list[str], names: str, device: Device
) -> None:
    """Also side by side, as the queries, keys and values of a Q4_K_M are."""
    weights, matrices = zip(*map(of_file, kinds), strict=True)
    weight = torch.cat(matrices)
    bias = torch.randn(len(weight))
    linear = parts(device).grouped_linear(weights, bias.to(device.device))
    assert kinds_of(linear) == names
    x = torch.randn(3, COLUMNS)
    expected = reference_linear.linear(x, weight, bias)
    assert_near("out", linear(x.to(device.device)), expected)
    residual = torch.randn(3, len(weight))
    summed = linear.add_to(x.to(device.device), residual.to(device.device, copy=True))
    assert_near("sum", summed, residual.double() + expected)


@pytest.mark.parametrize(
    ("quantization", "kind", "name"),
    [
        ("int4", "Q4_K", "GroupedLinear"),
        ("int8", "Q4_K", "GroupedLinear"),
        ("int4", "Q6_K", "Int8Linear"),
        ("int8", "Q6_K", "Int8Linear"),
    ],
)
def test_what_is_in_four_bits_is_not_rounded_again(
    quantization: str, kind: str, name: str, device: Device
) -> None:
    """And what is in eight stays in eight."""
    weight, _ = of_file(kind)
    made = parts(device, quantization)
    assert kinds_of(made.grouped_linear([weight])) == name
    assert kinds_of(made.head(weight)) == name
    assert kinds_of(made.head(torch.randn(8, 32, device=device.device))) == "Int8Linear"


def kinds_of(linear: Any) -> str:
    """Return the types of a linear layer and of those that it consists of."""
    members = getattr(linear, "_linears", ())
    name = type(linear).__name__
    return f"{name}({', '.join(map(kinds_of, members))})" if members else name
