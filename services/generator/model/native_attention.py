"""Attention by the compiled kernel, for single queries and prompt chunks alike.

A token's result is the same bit for bit however its prompt was cut and whatever runs beside it.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch

from services.generator.model.config import ModelConfig
from services.generator.model.kv_cache import LayerCache
from services.generator.model.pages import Pages

_DTYPES = frozenset({torch.float32, torch.bfloat16})
# ROWS and DIM of the source: query rows that share a tile of keys, and heads that fit.
_MAX_ROWS = 64
_MAX_HEAD_DIM = 256
_HEAD_DIM_STEP = 16


class _Arguments(ctypes.Structure):
    """Mirrors `struct Arguments` of paged_attention.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("queries", "out", "cache")),
        *((name, ctypes.c_void_p) for name in ("block_table", "items")),
        *((name, ctypes.c_int64) for name in ("num_items", "query_stride", "table_width")),
        *((name, ctypes.c_int32) for name in ("heads", "kv_heads", "dim", "block_size")),
        *((name, ctypes.c_int32) for name in ("window", "num_threads")),
        *((name, ctypes.c_float) for name in ("scale", "soft_cap")),
    )


@dataclass(frozen=True, slots=True)
class NativePlan:
    """A step's sequences and its work as the kernel reads them, in int32."""

    slots: torch.Tensor  # [T] int64
    block_table: torch.Tensor  # [sequences, blocks of the longest]
    items: torch.Tensor  # [items, 4]: sequence, row in the batch, position, number of queries
    block_size: int


class NativeAttention:
    """An `Attention` for the shapes that the kernel takes."""

    def __init__(self, library: ctypes.CDLL, config: ModelConfig, window: int | None) -> None:
        self._kernel = library.paged_attention
        self._kernel.restype = None
        self._kernel.argtypes = (ctypes.c_void_p, ctypes.c_bool)
        self._config = config
        self._window = window or 0
        self._item_queries = max(1, _MAX_ROWS * config.num_kv_heads // config.num_heads)

    @staticmethod
    def serves(config: ModelConfig, dtype: torch.dtype) -> bool:
        """Return whether the kernel takes this shape."""
        fits = config.head_dim % _HEAD_DIM_STEP == 0 and config.head_dim <= _MAX_HEAD_DIM
        return fits and config.num_heads <= _MAX_ROWS * config.num_kv_heads and dtype in _DTYPES

    def plan(self, pages: Pages, block_size: int) -> NativePlan:
        """Lay out the blocks, and cut the queries into items, the longest work first."""
        width = max(map(len, pages.block_ids))
        table = [[*ids, *[0] * (width - len(ids))] for ids in pages.block_ids]
        return NativePlan(
            pages.slots,
            torch.tensor(table, dtype=torch.int32),
            torch.tensor(self._items(pages), dtype=torch.int32),
            block_size,
        )

    def _items(self, pages: Pages) -> list[tuple[int, int, int, int]]:
        items = []
        row = 0
        lengths = zip(pages.num_queries, pages.context_lengths, strict=True)
        for sequence, (num_queries, length) in enumerate(lengths):
            start = length - num_queries
            for first in range(0, num_queries, self._item_queries):
                count = min(self._item_queries, num_queries - first)
                items.append((sequence, row + first, start + first, count))
            row += num_queries
        return sorted(items, key=self._work, reverse=True)

    def _work(self, item: tuple[int, int, int, int]) -> int:
        """Return the number of products, within a factor."""
        _, _, position, count = item
        visible = position + count
        return count * (min(visible, self._window + count) if self._window else visible)

    def __call__(self, qkv: torch.Tensor, cache: LayerCache, plan: NativePlan) -> torch.Tensor:
        """Map rotated [T, q_size + 2 kv_size] to [T, q_size]."""
        config = self._config
        cache.slots.index_copy_(0, plan.slots, qkv[:, config.q_size :])
        out = qkv.new_empty(qkv.shape[0], config.q_size)
        arguments = _Arguments(
            queries=qkv.data_ptr(),
            out=out.data_ptr(),
            cache=cache.slots.data_ptr(),
            block_table=plan.block_table.data_ptr(),
            items=plan.items.data_ptr(),
            num_items=len(plan.items),
            query_stride=qkv.stride(0),
            table_width=plan.block_table.shape[1],
            heads=config.num_heads,
            kv_heads=config.num_kv_heads,
            dim=config.head_dim,
            block_size=plan.block_size,
            window=self._window,
            num_threads=torch.get_num_threads(),
            scale=config.attention_scale,
            soft_cap=config.attention_softcap or 0.0,
        )
        self._kernel(ctypes.addressof(arguments), qkv.dtype == torch.bfloat16)
        return out
