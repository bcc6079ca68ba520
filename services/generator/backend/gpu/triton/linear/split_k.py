"""Split-K: how a product of tokens and weights is cut into programs, and K too where they are few.

Tiles are [BN, BT], weights first: then a weight that is widened in registers is the operand which
tensor cores take from registers, and few tokens fill the side that may be narrow.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from services.generator.backend.gpu.triton.checks import (
    require_contiguous,
    require_dtype,
    require_rows,
    require_shape,
)

DTYPES = frozenset({torch.float32, torch.float16, torch.bfloat16})
ANY = 2**63  # rows
# by bounds of rows: programs for each multiprocessor, which hide one another's waiting, and the
# fewest steps along K that are worth the writing and reading of a part
SPREAD = ((16, 3, 2), (64, 2, 2), (ANY, 1, 8))
MAX_PARTS = 16
GROUP = 8  # tiles of tokens that run through the columns together: their weights stay in L2


class Tiles(NamedTuple):
    """What one program computes; `depth` is its step along K."""

    rows: int
    columns: int
    depth: int
    num_warps: int
    num_stages: int


class Plan(NamedTuple):
    """Programs of a launch: tiles of the result, times parts of K that are `part_depth` deep."""

    tiles: Tiles
    programs: int
    parts: int
    part_depth: int

    @property
    def constants(self) -> dict[str, int]:
        """What the kernels take as constants."""
        return {
            "GROUP": GROUP,
            "BT": self.tiles.rows,
            "BN": self.tiles.columns,
            "BK": self.tiles.depth,
        }

    @property
    def options(self) -> dict[str, int]:
        """What the compiler takes."""
        return {"num_warps": self.tiles.num_warps, "num_stages": self.tiles.num_stages}

    def target(self, out: torch.Tensor) -> torch.Tensor:
        """Return where the kernel writes: `out`, or a float32 buffer of parts yet to be summed."""
        if self.parts == 1:
            return out
        return torch.empty((self.parts, *out.shape), dtype=torch.float32, device=out.device)


def choose(table: Sequence[tuple[int, Tiles]], rows: int) -> Tiles:
    """Return the tiles for so many rows; the table is of upper bounds, rising, and ends in ANY."""
    return next(tiles for bound, tiles in table if rows <= bound)


def plan_split_k(rows: int, columns: int, depth: int, tiles: Tiles, multiprocessors: int) -> Plan:
    """Return the split-K plan: K is split where that gives more multiprocessors something to do."""
    programs = triton.cdiv(rows, tiles.rows) * triton.cdiv(columns, tiles.columns)
    steps = max(1, triton.cdiv(depth, tiles.depth))
    resident, fewest = next(entry for bound, *entry in SPREAD if rows <= bound)
    wanted = resident * multiprocessors // programs
    parts = max(1, min(wanted, steps // fewest, MAX_PARTS))
    part_steps = triton.cdiv(steps, parts)
    return Plan(tiles, programs, triton.cdiv(steps, part_steps), part_steps * tiles.depth)


@cache
def num_multiprocessors(device: torch.device) -> int:
    """Return the device's multiprocessors; for the interpreter a few, so that it too splits."""
    if device.type != "cuda":
        return 8
    return torch.cuda.get_device_properties(device).multi_processor_count


@triton.jit
def tile_index(T, N, GROUP: tl.constexpr, BT: tl.constexpr, BN: tl.constexpr):
    tiles_t, tiles_n = tl.cdiv(T, BT), tl.cdiv(N, BN)
    i_tile = tl.program_id(0)
    return tl.swizzle2d(i_tile // tiles_n, i_tile % tiles_n, tiles_t, tiles_n, GROUP)


@triton.jit
def store_tile(
    p_out,  # [PARTS, T, N] contiguous
    p_bias,  # [N]
    b_acc,  # [BN, BT]
    o_t,  # [BT] int64
    o_n,  # [BN]
    T,
    N,
    HAS_BIAS: tl.constexpr,
):
    m_n = o_n < N
    if HAS_BIAS:
        b_acc += tl.load(p_bias + o_n, mask=m_n, other=0.0).to(tl.float32)[:, None]
    i_part = tl.program_id(1).to(tl.int64)
    p_tile = p_out + (i_part * T + o_t)[None, :] * N + o_n[:, None]
    tl.store(p_tile, b_acc.to(p_out.dtype.element_ty), mask=m_n[:, None] & (o_t < T)[None, :])


@triton.jit(do_not_specialize=["T", "PARTS"])
def sum_parts_kernel(
    p_parts,  # float32 [PARTS, T, N] contiguous
    p_bias,  # [N], or p_parts where there is none
    p_out,  # [T, N] contiguous
    T,
    N,
    PARTS,
    HAS_BIAS: tl.constexpr,
    BPARTS: tl.constexpr,
    BSIZE: tl.constexpr,
):
    o_part = tl.arange(0, BPARTS).to(tl.int64)
    o_out = tl.program_id(0).to(tl.int64) * BSIZE + tl.arange(0, BSIZE)
    # a multiple of 16 where N is one, for any T
    SIZE = T * N
    m_out = o_out < SIZE
    m_parts = (o_part < PARTS)[:, None] & m_out[None, :]
    # [BPARTS, BSIZE], all at once and summed in an order that never changes
    b_parts = tl.load(p_parts + o_part[:, None] * SIZE + o_out[None, :], mask=m_parts, other=0.0)
    b_out = tl.sum(b_parts, axis=0)
    if HAS_BIAS:
        b_out += tl.load(p_bias + o_out % N, mask=m_out, other=0.0).to(tl.float32)
    tl.store(p_out + o_out, b_out.to(p_out.dtype.element_ty), mask=m_out)


SUM_TILE = 256


def sum_parts(parts: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor) -> None:
    """Write the sum of `parts` [PARTS, T, N] and `bias` [N] to `out` [T, N]; no atomics."""
    sum_parts_kernel[(triton.cdiv(out.numel(), SUM_TILE),)](
        *(parts, parts if bias is None else bias, out),
        *(*out.shape, parts.shape[0]),
        HAS_BIAS=bias is not None,
        BPARTS=MAX_PARTS,
        BSIZE=SUM_TILE,
        num_warps=4,
    )


def check_operands(
    x: torch.Tensor,
    columns: int,
    bias: torch.Tensor | None,
    dtypes: frozenset[torch.dtype] = DTYPES,
) -> None:
    """Raise KernelError unless `x` is [T, K] of these dtypes and `bias` fits so many columns."""
    require_shape("x", x, None, None)
    require_dtype("x", x, dtypes)
    require_rows("x", x)
    if bias is not None:
        require_shape("bias", bias, columns)
        require_dtype("bias", bias, DTYPES)
        require_contiguous("bias", bias)
