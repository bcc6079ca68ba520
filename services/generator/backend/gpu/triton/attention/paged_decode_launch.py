"""Launches of the decode kernels: tiles by dtype and head size, splits by what keeps a GPU busy."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
import triton

TILE_BYTES = 16384  # of keys, and as many of values
MAX_SPLITS = 64  # the reduction holds them in one tile
PROGRAMS = 4  # wanted on a multiprocessor
SPLIT_TILES = 64  # with more to a split, a batch would wait for its one long sequence
FEWEST_TILES = 16  # of a split, where fewer splits do: its sums are a hundredth of what it reads


class Tile(NamedTuple):
    """A launch: heads, head size and tokens of a program's tile, its warps and pipeline stages."""

    heads: int
    width: int
    tokens: int
    num_warps: int
    num_stages: int


def tile_of(query_bytes: int, head_size: int, group: int) -> Tile:
    """Return the tile of queries this wide, where `group` of them share a KV head."""
    heads = max(16, triton.next_power_of_2(group))
    width = max(16, triton.next_power_of_2(head_size))
    tokens = min(64, TILE_BYTES // (width * query_bytes))
    is_large = heads * width > 4096
    if query_bytes == 4:
        # no tensor cores: operands lie whole in registers, and loads ahead would spill them
        return Tile(heads, width, tokens, 16 if is_large else 8, 1)
    return Tile(heads, width, tokens, 8 if is_large else 4, 3)


def busy_splits(sequences: int, kv_heads: int, multiprocessors: int) -> int:
    """Return how many parts of each sequence keep the multiprocessors busy."""
    return max(PROGRAMS * multiprocessors // (sequences * kv_heads), 1)


def splits_of(busy: int, tiles: int) -> int:
    """Return how many parts the tokens are split in at most, a power of two.

    As many as `busy`, or more of `tiles`, those of the longest sequence that the block table can
    hold: the host does not know the lengths, by which programs use as many as they need.
    """
    wanted = max(busy, tiles // SPLIT_TILES)
    return min(MAX_SPLITS, 1 << (wanted.bit_length() - 1), 1 << max(tiles - 1, 0).bit_length())


@cache
def multiprocessors_of(device: torch.device) -> int:
    """Return those of a GPU; the interpreter splits as an H100 does."""
    if device.type != "cuda":
        return 132
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def reduce_warps(elements: int) -> int:
    """Return the warps for a reduction's tile: 32 elements to a thread, within 1 to 16."""
    return min(16, max(1, elements // 1024))
