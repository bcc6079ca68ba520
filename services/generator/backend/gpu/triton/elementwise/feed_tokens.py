"""Tokens that one step drew become inputs of the next, without a way over the host."""

import torch
import triton
import triton.language as tl

from services.generator.backend.gpu.triton.checks import (
    require_contiguous,
    require_dtype,
    require_shape,
)

TILE = 256


@triton.jit(do_not_specialize=["T"])
def feed_tokens_kernel(
    p_ids,  # [T]
    p_sources,  # [T]
    p_drawn,  # [S]
    T,
    BT: tl.constexpr,
):
    o_t = tl.program_id(0) * BT + tl.arange(0, BT)
    b_source = tl.load(p_sources + o_t, mask=o_t < T, other=-1)  # [BT]
    m_t = b_source >= 0
    b_id = tl.load(p_drawn + b_source, mask=m_t, other=0)
    tl.store(p_ids + o_t, b_id, mask=m_t)


def feed_tokens(token_ids: torch.Tensor, sources: torch.Tensor, drawn: torch.Tensor) -> None:
    """Put `drawn[sources]` into `token_ids` in place, where a source is not negative.

    `token_ids` and `sources` are int64 [T], `drawn` int64 [S], all contiguous. Raises KernelError.
    """
    require_shape("token_ids", token_ids, None)
    require_shape("sources", sources, len(token_ids))
    require_shape("drawn", drawn, None)
    for name, tensor in (("token_ids", token_ids), ("sources", sources), ("drawn", drawn)):
        require_dtype(name, tensor, {torch.int64})
        require_contiguous(name, tensor)
    if len(token_ids):
        grid = (triton.cdiv(len(token_ids), TILE),)
        feed_tokens_kernel[grid](token_ids, sources, drawn, len(token_ids), BT=TILE)
