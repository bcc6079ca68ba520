"""MoE sort: rows by the expert, or the LoRA adapter, whose weights they take; padded to tiles."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from services.generator.backend.gpu.triton.checks import (
    KernelError,
    require_contiguous,
    require_dtype,
    require_shape,
)

TILES = (16, 32, 64, 128)
INDICES = frozenset({torch.int32, torch.int64})


@dataclass(frozen=True)
class SortedRows:
    """Pairs of a token and one of its experts, by expert; a tile of them has one expert.

    Pair `token * num_choices + choice` is one of `pair_ids`, int32 [S], with -1 where an expert's
    last tile is not full and behind the last. `expert_ids`, int32 [ceil(S / tile)], has the expert
    of each tile; -1 where its pairs have none. S follows from the shapes alone.
    """

    pair_ids: torch.Tensor
    expert_ids: torch.Tensor
    num_tokens: int
    num_choices: int
    num_experts: int
    tile: int

    @property
    def num_pairs(self) -> int:
        """How many pairs there are, each once among `pair_ids`."""
        return self.num_tokens * self.num_choices


@triton.jit
def experts_of(p_topk_ids, o_p, P, E):
    """Return each pair's expert, E where there is none and E + 1 behind the last pair."""
    b_id = tl.load(p_topk_ids + o_p, mask=o_p < P, other=-1)
    # compared before it is narrowed, since ids may be any integers
    b_expert = tl.where((b_id >= 0) & (b_id < E), b_id, E).to(tl.int32)
    return tl.where(o_p < P, b_expert, E + 1)


@triton.jit(do_not_specialize=["P", "S"])
def sort_by_expert_kernel(
    p_topk_ids,  # [P] contiguous
    p_pairs,  # [S]
    p_experts,  # [ceil(S / TILE)]
    P,
    S,
    E,
    TILE: tl.constexpr,
    BP: tl.constexpr,
    BE: tl.constexpr,
):
    # a program writes one expert's pairs, the last those of no expert and what remains; each counts
    # all pairs, which is cheaper than to wait for others
    i_e = tl.program_id(0)
    o_p = tl.arange(0, BP)
    o_e = tl.arange(0, BE)
    b_counts = tl.zeros([BE], tl.int32)
    for i_p in range(0, P, BP):
        b_expert = experts_of(p_topk_ids, i_p + o_p, P, E)  # [BP]
        m_p = b_expert < E
        b_counts += tl.histogram(tl.where(m_p, b_expert, 0), BE, mask=m_p)
    b_whole = tl.cdiv(b_counts, TILE) * TILE
    i_start = tl.sum(tl.where(o_e < i_e, b_whole, 0))
    i_end = i_start + tl.sum(tl.where(o_e == i_e, b_whole, 0))
    i_end = tl.where(i_e == E, S, i_end)

    i_s = i_start
    for i_p in range(0, P, BP):
        m_p = experts_of(p_topk_ids, i_p + o_p, P, E) == i_e  # [BP]
        b_rank = tl.cumsum(m_p.to(tl.int32), 0)
        tl.store(p_pairs + i_s + b_rank - 1, i_p + o_p, mask=m_p)
        i_s += tl.sum(m_p.to(tl.int32))
    b_none = tl.full([BP], -1, tl.int32)
    for i_p in range(i_s, i_end, BP):
        tl.store(p_pairs + i_p + o_p, b_none, mask=i_p + o_p < i_end)

    b_expert = b_none + tl.where(i_e == E, 0, i_e + 1)
    i_last = tl.cdiv(i_end, TILE)
    for i_p in range(i_start // TILE, i_last, BP):
        tl.store(p_experts + i_p + o_p, b_expert, mask=i_p + o_p < i_last)


def _launch(topk_ids: torch.Tensor, num_experts: int, tile: int) -> SortedRows:
    tokens, choices = topk_ids.shape
    pairs = tokens * choices
    # at most so many experts have pairs; what they leave of their last tiles
    size = pairs + min(num_experts, pairs) * (tile - 1)
    pair_ids = torch.empty(size, dtype=torch.int32, device=topk_ids.device)
    expert_ids = torch.empty(triton.cdiv(size, tile), dtype=torch.int32, device=topk_ids.device)
    if pairs:
        sort_by_expert_kernel[(num_experts + 1,)](
            *(topk_ids, pair_ids, expert_ids, pairs, size, num_experts),
            TILE=tile,
            **launch_options(pairs, num_experts),
        )
    return SortedRows(pair_ids, expert_ids, tokens, choices, num_experts, tile)


def launch_options(pairs: int, num_experts: int) -> dict[str, int]:
    """Return tiles and warps: two sizes, so that few kernels are compiled while serving."""
    few = pairs <= 256
    return {
        "BP": 256 if few else 4096,
        "BE": max(32, triton.next_power_of_2(num_experts)),
        "num_warps": 4 if few else 8,
    }


def sort_by_expert(topk_ids: torch.Tensor, num_experts: int, tile: int) -> SortedRows:
    """Return the pairs of tokens and experts sorted by expert, each expert's padded to whole tiles.

    `topk_ids` is [T, C] of int32 or int64, contiguous; an id outside 0 to `num_experts` - 1 is no
    expert: products make such a pair's row zero, or leave it as it was. `tile` is 16, 32, 64 or 128
    rows. The order within an expert is that of the pairs. Nothing waits for the device; there are
    T * C + min(num_experts, T * C) * (tile - 1) places. Raises KernelError.
    """
    require_shape("topk_ids", topk_ids, None, None)
    require_dtype("topk_ids", topk_ids, INDICES)
    require_contiguous("topk_ids", topk_ids)
    if num_experts < 1:
        raise KernelError("num_experts", f"is {num_experts}, at least 1 is needed")
    if tile not in TILES:
        raise KernelError("tile", f"is {tile}, not one of: {', '.join(map(str, TILES))}")
    return _launch(topk_ids, num_experts, tile)
