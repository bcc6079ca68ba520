"""Values of four bits, packed and taken apart again."""

import pytest
import torch
import triton
import triton.language as tl

from services.generator.backend.gpu.triton.linear.int4_packing import (
    pack_int4,
    unit_scale,
    unpack_int4,
)
from tests.generator.backend.gpu.triton.compare import FLOATS


@triton.jit
def unpack_kernel(p_words, p_units, p_values, p_scales):
    o_n = tl.arange(0, 16)
    o_word = tl.arange(0, 8)
    p_words += 4 * (o_word // 4 * 16)[None, :] + 4 * o_n[:, None] + (o_word % 4)[None, :]
    b_units = tl.load(p_units + o_n)
    b_values = unpack_int4(tl.load(p_words), b_units, p_values.dtype.element_ty)
    tl.store(p_values + 64 * o_n[:, None] + tl.arange(0, 64)[None, :], b_values)
    tl.store(p_scales + o_n, unit_scale(b_units))


@pytest.mark.parametrize("scale_dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dtype", [*FLOATS, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)])
def test_values_less_their_zeros_and_their_scales_are_exact(
    dtype: torch.dtype, scale_dtype: torch.dtype, device: torch.device
) -> None:
    """Each of the sixteen against each, at every place of a block; scales of all magnitudes."""
    values = torch.arange(64, device=device)[:, None].expand(64, 16) % 16
    zeros = torch.arange(16, device=device)[None, :]
    scales = (torch.rand(1, 16, device=device) * 2.0 ** (zeros - 20)).to(scale_dtype)
    found = torch.empty(16, 64, dtype=dtype, device=device)
    found_scales = torch.empty(16, device=device)
    unpack_kernel[(1,)](*pack_int4(values, zeros, scales), found, found_scales)
    assert torch.equal(found.double(), (values - zeros).T.double())
    assert torch.equal(found_scales, scales[0].float())


def test_scales_in_float32_keep_eleven_bits(device: torch.device) -> None:
    """They are rounded to the nearest, away from zero where two are."""
    scales = torch.tensor([[1 + 2**-10, 1 + 2**-11, 1 + 2**-11 - 2**-20, 3.0]], device=device)
    values = torch.zeros(32, 4, dtype=torch.int8, device=device)
    _, units = pack_int4(values, values[:1], scales)
    kept = (units & -0x2000).view(torch.float32)
    assert kept.tolist() == [[1 + 2**-10, 1 + 2**-10, 1.0, 3.0]]


def test_a_block_that_is_not_full_is_padded(device: torch.device) -> None:
    """What is there lies where it would in a full one."""
    values = torch.randint(0, 16, (40, 8), dtype=torch.int8, device=device)
    rest = values[:1], torch.ones(1, 8, device=device)
    words, _ = pack_int4(values, *rest)
    whole, _ = pack_int4(torch.cat([values, values.new_zeros(24, 8)]), *rest)
    assert words.shape == (2, 8, 4) and torch.equal(words, whole)


def test_units_hold_a_float_with_steps_of_one(device: torch.device) -> None:
    """A bfloat16's bits, of 128 and the zero; a float16's where its exponent is put in."""
    zeros = torch.arange(16, device=device)[None, :]
    values = torch.zeros(32, 16, dtype=torch.int8, device=device)
    _, units = pack_int4(values, zeros, torch.rand(1, 16, device=device))
    bits = ((units & 0x1FF0) << 2 | units & 15).short()
    assert torch.equal(bits.view(torch.bfloat16).double(), zeros.double() + 2**7)
    assert torch.equal((bits ^ 0x2700).view(torch.float16).double(), zeros.double() + 2**10)
