"""Values of four bits, eight to a word: taken apart in registers and made floats, exactly."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def shift_of(o_value, IS_AWQ: tl.constexpr):
    # AWQ's nibbles hold the values 0 2 4 6 1 3 5 7
    return 4 * (o_value // 2 + o_value % 2 * 4) if IS_AWQ else 4 * o_value


@triton.jit
def unpacked(b_words, S4: tl.constexpr, S2: tl.constexpr, S1: tl.constexpr):
    # [A, B] to [A, 8 * B]; values 4, 2 and 1 behind another lie so many bits above it
    b_words = tl.interleave(b_words, b_words >> S4)
    b_words = tl.interleave(b_words, b_words >> S2)
    return tl.interleave(b_words, b_words >> S1) & 15


@triton.jit
def above_power(b_value, dtype: tl.constexpr):
    # an integer put into the mantissa of 2**7, 2**10 or 2**23 adds to it: exact, and no conversion
    if dtype == tl.bfloat16:
        b_bits = (b_value | 0x4300).to(tl.int16)
    elif dtype == tl.float16:
        b_bits = (b_value | 0x6400).to(tl.int16)
    else:
        b_bits = b_value | 0x4B000000
    return b_bits.to(dtype, bitcast=True)
