"""Gated linear units against float64."""

import pytest
import torch

from services.generator.backend.gpu.triton.checks import KernelError
from services.generator.backend.gpu.triton.elementwise.gated_activation import gated_activation
from services.generator.backend.gpu.triton.reference import elementwise as reference
from tests.generator.backend.gpu.triton.compare import FLOATS, assert_near

DTYPES = pytest.mark.parametrize("dtype", [*FLOATS, torch.bfloat16])
ACTIVATIONS = pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])


@DTYPES
@ACTIVATIONS
@pytest.mark.parametrize(
    ("rows", "width"), [(0, 64), (1, 63), (3, 111), (2, 1025), (63, 100), (100, 1), (111, 128)]
)
def test_up_is_multiplied_by_the_activated_gate(
    rows: int, width: int, dtype: torch.dtype, activation: str, device: torch.device
) -> None:
    """Widths that are no powers of two, one column, and no rows at all."""
    gate_up = (2 * torch.randn(rows, 2 * width, device=device)).to(dtype)
    out = gated_activation(gate_up, activation)
    assert out.dtype == dtype
    assert_near("out", out, reference.gated_activation(gate_up, activation))


@pytest.mark.gpu
@DTYPES
@ACTIVATIONS
@pytest.mark.parametrize("rows", [4096, 32768])
def test_long_prompts_are_gated(
    rows: int, dtype: torch.dtype, activation: str, device: torch.device
) -> None:
    """Rows of real width."""
    gate_up = torch.randn(rows, 2 * 3072, device=device).to(dtype)
    assert_near(
        "out",
        gated_activation(gate_up, activation),
        reference.gated_activation(gate_up, activation),
    )


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")
@ACTIVATIONS
def test_a_large_gate_is_kept_or_closed(activation: str, device: torch.device) -> None:
    """The exponential may overflow, the result does not."""
    gate_up = torch.tensor([[1e4, -1e4, 50.0, -50.0, 1.0, 2.0, 3.0, 4.0]], device=device)
    out = gated_activation(gate_up, activation)
    assert_near("out", out, torch.tensor([[1e4, 0.0, 150.0, 0.0]], dtype=torch.float64))


def test_rows_may_lie_apart(device: torch.device) -> None:
    """Columns of a wider tensor are read in place."""
    gate_up = torch.randn(3, 300, device=device)[:, 20:222]
    assert_near(
        "out", gated_activation(gate_up, "silu"), reference.gated_activation(gate_up, "silu")
    )


@pytest.mark.parametrize(
    ("argument", "columns", "step", "activation"),
    [("gate_up", 16, 2, "silu"), ("gate_up", 15, 1, "silu"), ("activation", 16, 1, "relu")],
)
def test_what_it_does_not_take_is_refused_by_name(
    argument: str, columns: int, step: int, activation: str, device: torch.device
) -> None:
    """Columns apart, an odd number of them, an activation that is none."""
    with pytest.raises(KernelError) as caught:
        gated_activation(torch.randn(2, columns, device=device)[:, ::step], activation)
    assert caught.value.argument == argument


@pytest.mark.gpu
def test_offsets_may_exceed_31_bits(device: torch.device) -> None:
    """The last of more than 2**31 elements."""
    gate_up = torch.ones(2**16 + 1, 2**15, dtype=torch.float16, device=device)
    gate_up[-1] = torch.randn(2**15, device=device)
    out = gated_activation(gate_up, "silu")
    assert_near("out", out[-1:], reference.gated_activation(gate_up[-1:], "silu"))
