"""Paged attention by the compiled kernel, for single queries and prompt chunks alike.

A token's result is the same bit for bit however its prompt was cut and whatever runs beside it.
"""

import ctypes
from dataclasses import dataclass

import torch

from services.generator.backend.cpu.program import KernelCall, Program, find_kernel
from services.generator.model.block_tables import BlockTables
from services.generator.model.checkpoint.config import ModelConfig
from services.generator.model.kv_cache import LayerCache

_DTYPES = frozenset({torch.float32, torch.bfloat16})
# ROWS, DIM and STRIPE of the source: query rows that share a tile of keys, heads that fit, and
# tokens that are kept together.
_MAX_ROWS = 64
_MAX_HEAD_DIM = 256
_HEAD_DIM_STEP = 16
_STRIPE = 16


class PlanArguments(ctypes.Structure):
    """Mirrors `struct Plan` of paged_attention.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("slots", "block_table", "items")),
        *((name, ctypes.c_int64) for name in ("rows", "num_items", "table_width")),
        ("block_size", ctypes.c_int32),
    )


class _Arguments(ctypes.Structure):
    """Mirrors `struct Arguments` of paged_attention.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("qkv", "cache", "out", "plan")),
        ("stride", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("heads", "kv_heads", "dim", "window")),
        *((name, ctypes.c_float) for name in ("scale", "soft_cap")),
        *((name, ctypes.c_bool) for name in ("is_bfloat16", "has_half_cache")),
    )


@dataclass(frozen=True, slots=True)
class NativePlan:
    """A step's sequences and its work as the kernel reads them."""

    slots: torch.Tensor  # [T] int64
    block_table: torch.Tensor  # int32 [sequences, blocks of the longest]
    items: torch.Tensor  # int32 [items, 4]: sequence, row in the batch, position, queries
    block_size: int

    @property
    def arguments(self) -> PlanArguments:
        """Return the addresses of its tensors, which have to outlive them."""
        return PlanArguments(
            slots=self.slots.data_ptr(),
            block_table=self.block_table.data_ptr(),
            items=self.items.data_ptr(),
            rows=len(self.slots),
            num_items=len(self.items),
            table_width=self.block_table.shape[1],
            block_size=self.block_size,
        )


class NativeAttention:
    """An `Attention` for the shapes that the kernel takes."""

    def __init__(self, library: ctypes.CDLL, config: ModelConfig, window: int | None) -> None:
        self._write = find_kernel(library, "kv_write")
        self._attend = find_kernel(library, "paged_attention")
        self._config = config
        self._window = window or 0
        self._item_queries = max(1, _MAX_ROWS * config.num_kv_heads // config.num_heads)

    @staticmethod
    def serves(config: ModelConfig, dtype: torch.dtype, block_size: int) -> bool:
        """Return whether the kernel takes heads and blocks of this shape."""
        fits = config.head_dim % _HEAD_DIM_STEP == 0 and config.head_dim <= _MAX_HEAD_DIM
        fits = fits and config.num_heads <= _MAX_ROWS * config.num_kv_heads
        return fits and block_size % _STRIPE == 0 and dtype in _DTYPES

    def plan(self, tables: BlockTables, block_size: int) -> NativePlan:
        """Lay out the blocks, and cut the queries into items, the longest work first."""
        assert block_size % _STRIPE == 0, f"blocks of {block_size} tokens. This is a bug."
        width = max(map(len, tables.block_ids))
        table = [[*ids, *[0] * (width - len(ids))] for ids in tables.block_ids]
        return NativePlan(
            tables.slots,
            torch.tensor(table, dtype=torch.int32),
            torch.tensor(self._items(tables), dtype=torch.int32),
            block_size,
        )

    def _items(self, tables: BlockTables) -> list[tuple[int, int, int, int]]:
        items = []
        row = 0
        lengths = zip(tables.num_queries, tables.context_lengths, strict=True)
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

    def calls(
        self, qkv: torch.Tensor, cache: LayerCache, out: torch.Tensor, plan: PlanArguments
    ) -> list[KernelCall]:
        """Return what writes the plan's rows to the cache and attends with them.

        The cache is of the rows' dtype, or of float16 beside float32.
        """
        config = self._config
        kept = cache.slots.dtype
        assert kept == qkv.dtype or (qkv.dtype, kept) == (torch.float32, torch.float16), kept
        arguments = _Arguments(
            qkv=qkv.data_ptr(),
            cache=cache.slots.data_ptr(),
            out=out.data_ptr(),
            plan=ctypes.addressof(plan),
            stride=qkv.stride(0),
            heads=config.num_heads,
            kv_heads=config.num_kv_heads,
            dim=config.head_dim,
            window=self._window,
            scale=config.attention_scale,
            soft_cap=config.attention_softcap or 0.0,
            is_bfloat16=qkv.dtype == torch.bfloat16,
            has_half_cache=kept == torch.float16,
        )
        return [KernelCall(self._write, arguments), KernelCall(self._attend, arguments)]

    def __call__(self, qkv: torch.Tensor, cache: LayerCache, plan: NativePlan) -> torch.Tensor:
        """Map rotated [T, q_size + 2 kv_size] to [T, q_size]."""
        out = qkv.new_empty(len(qkv), self._config.q_size)
        arguments = plan.arguments
        Program(self.calls(qkv, cache, out, arguments)).run()
        return out
