"""Where a tile of tokens lies in a paged KV cache (arXiv:2309.06180)."""

import triton
import triton.language as tl


@triton.jit
def paged_slots(
    p_table,  # [blocks of the sequence]
    i_n,  # a multiple of BN
    m_n,  # [BN]
    BN: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
):
    """Return for BN tokens from `i_n` on each one's block, and its index there, int64 [BN]."""
    o_n = tl.arange(0, BN)
    if BN % BLOCK_SIZE == 0:
        # blocks begin where tiles do, so a block's tokens are the same in every tile
        o_block = i_n // BLOCK_SIZE + o_n // BLOCK_SIZE
        o_token = o_n % BLOCK_SIZE
    else:
        o_block = (i_n + o_n) // BLOCK_SIZE
        o_token = (i_n + o_n) % BLOCK_SIZE
    b_block = tl.load(p_table + o_block, mask=m_n, other=0).to(tl.int64)
    return b_block, o_token.to(tl.int64)
