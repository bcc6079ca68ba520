"""Where the tokens of a tile lie in a paged cache."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def places(i_n, BN: tl.constexpr, BLOCK: tl.constexpr):
    """Return for BN tokens from `i_n` on, a multiple of BN, each one's block and slot in it."""
    o_n = tl.arange(0, BN)
    if BN % BLOCK == 0:
        # blocks begin where tiles do, so slots are the same in every tile
        o_block = i_n // BLOCK + o_n // BLOCK
        o_slot = o_n % BLOCK
    else:
        o_block = (i_n + o_n) // BLOCK
        o_slot = (i_n + o_n) % BLOCK
    return o_block, o_slot
