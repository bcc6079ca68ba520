"""Online softmax (arXiv:1805.02867) over tiles of attention scores, in powers of two."""

import math

import triton
import triton.language as tl

LOG2_E = tl.constexpr(math.log2(math.e))
LOWEST = tl.constexpr(-1e30)  # below every score, and exp2(-inf - LOWEST) is 0, not NaN


@triton.jit
def score_scales(scale, soft_cap, HAS_SOFT_CAP: tl.constexpr):
    """Return the factors of a score in an exponent of 2, and of one in `soft_capped`."""
    scale *= LOG2_E
    cap_scale = scale
    if HAS_SOFT_CAP:
        # a tanh takes twice its argument
        cap_scale *= 2.0 / soft_cap
        scale = soft_cap * LOG2_E
    return scale, cap_scale


@triton.jit
def soft_capped(b_s, cap_scale):
    """Return the tanh of scores over their cap, from -1 to 1."""
    # tanh(x) is 1 - 2 / (exp(2x) + 1), right for an infinite exponential too
    return 1.0 - 2.0 / (tl.exp2(b_s * cap_scale) + 1.0)


@triton.jit
def online_softmax(b_s, b_max, b_sum, scale):
    """Return a tile's weights, what earlier sums shrink by, and the new maximum and sum."""
    # a positive scale keeps the order, and is free in the exponent's subtraction
    b_top = tl.maximum(b_max, tl.max(b_s, axis=1) * scale)
    b_shrink = tl.exp2(b_max - b_top)
    b_p = tl.exp2(b_s * scale - b_top[:, None])
    return b_p, b_shrink, b_top, b_sum * b_shrink + tl.sum(b_p, axis=1)
