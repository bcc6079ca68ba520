"""Activations against torch's own, and bit by bit against themselves."""

import pytest
import torch
from torch.nn import functional

from services.generator.model.activation import activation

NAMES = pytest.mark.parametrize("name", ["silu", "gelu", "gelu_tanh"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


@NAMES
@DTYPES
def test_an_activation_is_what_torch_says(name: str, dtype: torch.dtype) -> None:
    """From the far negative to the far positive, within the last digits."""
    x = torch.linspace(-200, 200, 4001).to(dtype)
    reference = {
        "silu": functional.silu,
        "gelu": functional.gelu,
        "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    }[name]
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(
        activation(name)(x).float(), reference(x.float()), rtol=tolerance, atol=2e-6
    )
    assert torch.equal(activation(name, batch_invariant=False)(x), reference(x))


@NAMES
@DTYPES
@pytest.mark.parametrize("size", [37, 48, 576])
def test_an_element_has_the_same_bits_at_any_place(
    name: str, dtype: torch.dtype, size: int
) -> None:
    """Contiguous or half of a wider row, in any number of rows, with more threads than one."""
    torch.manual_seed(0)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        x = torch.randn(300, 2 * size).to(dtype)
        act = activation(name)
        whole = act(x)
        for rows in (1, 2, 3, 7, 64, 129, 299):
            assert torch.equal(act(x[:rows]), whole[:rows])
            assert torch.equal(act(x[-rows:, :size]), whole[-rows:, :size])
    finally:
        torch.set_num_threads(num_threads)
