"""Gated activations against torch's own, and bit by bit against themselves."""

import pytest
import torch
from torch.nn import functional

from services.generator.backend.cpu.gated_activation import gated_activation
from tests.generator.backend.cpu.kernels import needs, torch_and_compiled

NAMES = pytest.mark.parametrize("name", ["silu", "gelu", "gelu_tanh"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
KERNELS = torch_and_compiled("gated_activation")


@KERNELS
@NAMES
@DTYPES
def test_a_gate_is_what_torch_says(kernels: str, name: str, dtype: torch.dtype) -> None:
    """From the far negative to the far positive, within the last digits."""
    gate = torch.linspace(-200, 200, 4003).to(dtype)
    up = torch.randn(4003, generator=torch.Generator().manual_seed(0)).to(dtype)
    reference = {
        "silu": functional.silu,
        "gelu": functional.gelu,
        "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    }[name](gate.double())
    out = gated_activation(name, dtype, kernels=kernels)(torch.cat((gate, up)).unsqueeze(0))
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(
        out.squeeze(0).double(), reference * up.double(), rtol=tolerance, atol=1e-5
    )


@KERNELS
@NAMES
@DTYPES
@pytest.mark.parametrize("width", [37, 48, 1536, 9000])
def test_an_element_has_the_same_bits_at_any_place(
    kernels: str, name: str, dtype: torch.dtype, width: int
) -> None:
    """In any number of rows and columns, with more threads than one."""
    torch.manual_seed(0)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        act = gated_activation(name, dtype, kernels=kernels)
        gate_up = torch.randn(7, 2 * width).to(dtype)
        whole = act(gate_up)
        for rows in (1, 2, 3):
            assert torch.equal(act(gate_up[:rows].clone()), whole[:rows])
        gate, up = gate_up.chunk(2, dim=-1)
        narrow = act(torch.cat((gate[:, :29], up[:, :29]), dim=-1))
        assert torch.equal(narrow, whole[:, :29])
    finally:
        torch.set_num_threads(num_threads)


@needs("gated_activation")
@pytest.mark.parametrize("name", ["silu", "gelu_tanh"])
@DTYPES
def test_what_is_no_number_stays_none(name: str, dtype: torch.dtype) -> None:
    """NaN in gate or up comes out as NaN, and only there."""
    gate_up = torch.ones(1, 40, dtype=dtype)
    gate_up[0, 3] = gate_up[0, 25] = float("nan")
    out = gated_activation(name, dtype)(gate_up).isnan().squeeze(0)
    assert out.nonzero().flatten().tolist() == [3, 5]
