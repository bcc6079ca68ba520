"""Attention by the compiled kernel for single queries, and by torch's products for prompt chunks.

A decode reads much and computes little, which the kernel does in place; a chunk computes much, for
which the matrix units behind torch's products are several times faster than vector code.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch

from services.generator.model.config import ModelConfig
from services.generator.model.kv_cache import LayerCache
from services.generator.model.pages import Pages
from services.generator.model.torch_attention import PromptChunk, TorchAttention

_HEAD_DIMS = frozenset({16, 32, 64, 80, 96, 112, 128, 192, 256})
_DTYPES = frozenset({torch.float32, torch.bfloat16})
# GROUP of the source: query heads that may share a key head.
_MAX_GROUP = 64


class _Arguments(ctypes.Structure):
    """Mirrors `struct Arguments` of paged_attention.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("queries", "out", "cache")),
        *((name, ctypes.c_void_p) for name in ("block_table", "context")),
        *((name, ctypes.c_int64) for name in ("num_sequences", "query_stride", "table_width")),
        *((name, ctypes.c_int32) for name in ("heads", "kv_heads", "block_size", "window")),
        ("num_threads", ctypes.c_int32),
        *((name, ctypes.c_float) for name in ("scale", "soft_cap")),
    )


@dataclass(frozen=True, slots=True)
class NativePlan:
    """A step's single queries as the kernel reads them, all int32, and its chunks."""

    slots: torch.Tensor  # [T] int64
    num_rows: int  # single queries, which come first
    chunks: list[PromptChunk]
    block_table: torch.Tensor  # [num_rows, blocks of the longest]
    context: torch.Tensor  # [num_rows], the query's own token included
    block_size: int


class NativeAttention:
    """An `Attention` for head sizes that the kernel was compiled for."""

    def __init__(self, library: ctypes.CDLL, config: ModelConfig, window: int | None) -> None:
        self._kernel = library.paged_attention
        self._kernel.restype = ctypes.c_bool
        self._kernel.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_bool)
        self._config = config
        self._window = window or 0
        self._torch = TorchAttention(config, window)

    @staticmethod
    def serves(config: ModelConfig, dtype: torch.dtype) -> bool:
        """Return whether the kernel knows this shape."""
        group = config.num_heads // config.num_kv_heads
        return config.head_dim in _HEAD_DIMS and group <= _MAX_GROUP and dtype in _DTYPES

    def plan(self, pages: Pages, block_size: int) -> NativePlan:
        """Lay out the blocks of the single queries, and plan the chunks."""
        count = sum(num_queries == 1 for num_queries in pages.num_queries)
        singles = pages.block_ids[:count]
        width = max(map(len, singles), default=0)
        table = [[*ids, *[0] * (width - len(ids))] for ids in singles]
        chunks = Pages(
            pages.slots,
            pages.num_queries[count:],
            pages.context_lengths[count:],
            pages.block_ids[count:],
        )
        return NativePlan(
            pages.slots,
            count,
            self._torch.plan(chunks, block_size).chunks,
            torch.tensor(table, dtype=torch.int32),
            torch.tensor(pages.context_lengths[:count], dtype=torch.int32),
            block_size,
        )

    def __call__(self, qkv: torch.Tensor, cache: LayerCache, plan: NativePlan) -> torch.Tensor:
        """Map rotated [T, q_size + 2 kv_size] to [T, q_size]."""
        q_size = self._config.q_size
        cache.slots.index_copy_(0, plan.slots, qkv[:, q_size:])
        out = qkv.new_empty(len(qkv), q_size)
        if plan.num_rows:
            self._attend(qkv, out, cache, plan)
        row = plan.num_rows
        for chunk in plan.chunks:
            rows = qkv[row : row + chunk.num_rows]
            out[row : row + chunk.num_rows] = self._torch.attend_chunk(
                rows[:, :q_size], rows[:, q_size:], cache, chunk
            )
            row += chunk.num_rows
        return out

    def _attend(
        self, qkv: torch.Tensor, out: torch.Tensor, cache: LayerCache, plan: NativePlan
    ) -> None:
        """Write the outputs of the single queries."""
        config = self._config
        arguments = _Arguments(
            queries=qkv.data_ptr(),
            out=out.data_ptr(),
            cache=cache.slots.data_ptr(),
            block_table=plan.block_table.data_ptr(),
            context=plan.context.data_ptr(),
            num_sequences=plan.num_rows,
            query_stride=qkv.stride(0),
            table_width=plan.block_table.shape[1],
            heads=config.num_heads,
            kv_heads=config.num_kv_heads,
            block_size=plan.block_size,
            window=self._window,
            num_threads=torch.get_num_threads(),
            scale=config.attention_scale,
            soft_cap=config.attention_softcap or 0.0,
        )
        is_bfloat16 = qkv.dtype == torch.bfloat16
        served = self._kernel(ctypes.addressof(arguments), config.head_dim, is_bfloat16)
        assert served, f"no kernel for head size {config.head_dim}. This is a bug."
