"""Integers made floats without a conversion, in bfloat16 too."""

import pytest
import torch
import triton
import triton.language as tl

from services.generator.kernels.nibbles import above_power


@triton.jit
def above_power_kernel(p_values, p_out):
    o_value = tl.arange(0, 16)
    b_out = above_power(tl.load(p_values + o_value), p_out.dtype.element_ty)
    tl.store(p_out + o_value, b_out)


@pytest.mark.parametrize(
    ("dtype", "power"), [(torch.bfloat16, 2**7), (torch.float16, 2**10), (torch.float32, 2**23)]
)
def test_a_value_lies_above_its_power_of_two(
    dtype: torch.dtype, power: int, device: torch.device
) -> None:
    """Each of the sixteen, exactly; their differences are then exact as well."""
    values = torch.arange(16, dtype=torch.int32, device=device)
    out = torch.empty(16, dtype=dtype, device=device)
    above_power_kernel[(1,)](values, out)
    assert torch.equal(out.double(), values.double() + power)
    assert torch.equal((out[:, None] - out[None, :]).double(), (values[:, None] - values).double())
