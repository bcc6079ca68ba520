"""Int4 packing: eight values to a word, in the order in which tensor cores take them.

Thread c of four holds 2c, 2c + 1, 2c + 8, 2c + 9 and so on of a row of an MMA's first operand (PTX
ISA, wgmma). A word has eight of these, so that what a thread reads it takes apart for itself.
"""

import torch
import triton
import triton.language as tl

BLOCK = 32  # values along K that four words hold
SCALE_BITS = -0x2000  # of a unit, as float32
ZERO_UNIT = 0x10C0  # of a zero of 0, without a scale


def pack_int4(
    values: torch.Tensor, zeros: torch.Tensor, scales: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the words of `pack_words` and units [G, N], both int32, for `linear_w4a16`.

    `values` [K, N] and `zeros` [G, N] are integers from 0 to 15, `scales` [G, N] floats, of which
    11 significant bits are kept: all of a float16's or bfloat16's. A unit is a scale's float32 with
    the zero, and the bits of a float that the kernel puts values in, in what is left of the
    mantissa.
    """
    units = (scales.float().view(torch.int32) + 0x1000) & SCALE_BITS
    return pack_words(values), units | zeros.int() | ZERO_UNIT


def fits_units(scales: torch.Tensor) -> bool:
    """Return whether units keep all bits of float32 scales."""
    return not bool((scales.contiguous().view(torch.int32) & ~SCALE_BITS).any())


def pack_words(values: torch.Tensor) -> torch.Tensor:
    """Return words, int32 [ceil(K / 32), N, 4], of `values` [K, N], integers from 0 to 15.

    Consecutive k, a pair, lie 16 bits apart in a word.
    """
    depth, columns = values.shape
    blocks = -(-depth // BLOCK)
    padded = values.new_zeros(blocks * BLOCK, columns)
    padded[:depth] = values
    padded = padded.view(blocks, 4, 4, 2, columns)
    words = torch.zeros(blocks, 4, columns, dtype=torch.int32, device=values.device)
    for place in range(4):
        for half in range(2):
            words |= padded[:, place, :, half].int() << 16 * half + 4 * place
    return words.transpose(1, 2).contiguous()


@triton.jit
def unit_scale(b_units):
    """Return the scales that units hold."""
    return (b_units & -0x2000).to(tl.float32, bitcast=True)


@triton.jit
def scale_and_offset(b_units):
    """Return what the halves of int32 or int64 units hold, float16s or float32s, in float32."""
    if b_units.dtype == tl.int32:
        b_scales = b_units.to(tl.int16).to(tl.float16, bitcast=True)
        b_offsets = (b_units >> 16).to(tl.int16).to(tl.float16, bitcast=True)
    else:
        b_scales = b_units.to(tl.int32).to(tl.float32, bitcast=True)
        b_offsets = (b_units >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    return b_scales.to(tl.float32), b_offsets.to(tl.float32)


@triton.jit
def unpack_int4(b_words, b_units, dtype: tl.constexpr):
    """Return of [A, B] words and [A] units [A, 8 * B] values less their zero, exactly."""
    A: tl.constexpr = b_words.shape[0]
    B: tl.constexpr = b_words.shape[1]
    b_words = tl.reshape(b_words, [A, B // 4, 4])
    # [A, B / 4, 4, 2, 2] pairs, in the lowest four bits of both halves
    b_words = tl.join(b_words, b_words >> 8)
    b_words = tl.join(b_words, b_words >> 4)
    b_units = b_units[:, None, None, None, None]
    if dtype == tl.float32:
        b_low = ((b_words & 15) - (b_units & 15)).to(dtype)
        b_high = ((b_words >> 16 & 15) - (b_units & 15)).to(dtype)
    else:
        # values put into the mantissa of 2**7 add to it, as the zero does; would the compiler know
        # these bits, it would take each pair apart
        b_zero = (b_units & 0x1FF0) << 2 | b_units & 15
        if dtype == tl.float16:
            b_zero ^= 0x2700  # of 2**10
        b_words = (b_words & 0x000F000F) | ((b_zero | b_zero << 16) & -0x000F0010)
        b_zero = b_zero.to(tl.int16).to(dtype, bitcast=True)
        # the higher first: then one instruction subtracts from both
        b_high = (b_words >> 16).to(tl.int16).to(dtype, bitcast=True) - b_zero
        b_low = b_words.to(tl.int16).to(dtype, bitcast=True) - b_zero
    return tl.reshape(tl.permute(tl.join(b_low, b_high), (0, 1, 3, 4, 2, 5)), [A, 8 * B])
