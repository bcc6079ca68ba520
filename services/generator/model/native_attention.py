"""Attention by the compiled kernel: the same arithmetic for a query whatever runs beside it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from itertools import accumulate

import torch

from services.generator.model.config import ModelConfig
from services.generator.model.kv_cache import LayerCache
from services.generator.model.native import Arguments
from services.generator.model.pages import Pages

_HEAD_DIMS = frozenset({16, 32, 64, 80, 96, 112, 128, 192, 256})
_DTYPES = frozenset({torch.float32, torch.bfloat16})
# QUERIES of the source: query heads that share a pass over their keys.
_QUERIES = 64


@dataclass(frozen=True, slots=True)
class NativePlan:
    """A step's sequences as the kernel reads them; all int32."""

    slots: torch.Tensor  # [T] int64
    block_table: torch.Tensor  # [sequences, blocks of the longest]
    first_row: torch.Tensor  # [sequences + 1]
    context: torch.Tensor  # [sequences]
    work: torch.Tensor  # [pieces, 3]: sequence, first of its rows, rows
    block_size: int


class NativeAttention:
    """An `Attention` for head sizes that the kernel was compiled for."""

    def __init__(self, library: ctypes.CDLL, config: ModelConfig, window: int | None) -> None:
        self._kernel = library.paged_attention
        self._config = config
        self._window = window or 0
        self._rows = max(1, _QUERIES // (config.num_heads // config.num_kv_heads))

    @staticmethod
    def serves(config: ModelConfig, dtype: torch.dtype) -> bool:
        """Return whether the kernel knows this shape."""
        group = config.num_heads // config.num_kv_heads
        return config.head_dim in _HEAD_DIMS and group <= _QUERIES and dtype in _DTYPES

    def plan(self, pages: Pages, block_size: int) -> NativePlan:
        """Cut the sequences into pieces of work, the longest contexts first."""
        width = max(map(len, pages.block_ids))
        table = [[*ids, *[0] * (width - len(ids))] for ids in pages.block_ids]
        work = [
            (sequence, first, min(self._rows, count - first))
            for sequence, count in enumerate(pages.num_queries)
            for first in range(0, count, self._rows)
        ]
        work.sort(key=lambda piece: -piece[2] * pages.context_lengths[piece[0]])
        return NativePlan(
            pages.slots,
            torch.tensor(table, dtype=torch.int32),
            torch.tensor([0, *accumulate(pages.num_queries)], dtype=torch.int32),
            torch.tensor(pages.context_lengths, dtype=torch.int32),
            torch.tensor(work, dtype=torch.int32),
            block_size,
        )

    def __call__(self, qkv: torch.Tensor, cache: LayerCache, plan: NativePlan) -> torch.Tensor:
        """Map rotated [T, q_size + 2 kv_size] to [T, q_size]."""
        config = self._config
        cache.slots.index_copy_(0, plan.slots, qkv[:, config.q_size :])
        out = qkv.new_empty(len(qkv), config.q_size)
        arguments = Arguments(
            queries=qkv.data_ptr(),
            out=out.data_ptr(),
            cache=cache.slots.data_ptr(),
            block_table=plan.block_table.data_ptr(),
            first_row=plan.first_row.data_ptr(),
            context=plan.context.data_ptr(),
            work=plan.work.data_ptr(),
            num_work=len(plan.work),
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
        return out
