"""Paged attention on a CPU, causal: its protocol, and the choice of who computes it."""

from typing import Any, Protocol

import torch

from services.generator.backend.cpu.attention.native_attention import NativeAttention
from services.generator.backend.cpu.attention.torch_attention import TorchAttention
from services.generator.backend.cpu.native import compiler
from services.generator.model.block_tables import BlockTables
from services.generator.model.checkpoint.config import ModelConfig
from services.generator.model.kv_cache import LayerCache


class Attention(Protocol):
    """Writes keys and values to their slots, then attends; holds shapes, no weights.

    Queries see `window` tokens, themselves included, where it was made with one.
    """

    def plan(self, tables: BlockTables, block_size: int) -> Any:
        """Return what all layers of this window share in one pass."""
        ...

    def __call__(self, qkv: torch.Tensor, cache: LayerCache, plan: Any) -> torch.Tensor:
        """Map rotated [T, q_size + 2 kv_size] to [T, q_size]."""
        ...


def attention(
    config: ModelConfig,
    window: int | None,
    dtype: torch.dtype,
    kernels: str = "auto",
    block_size: int = 16,
) -> Attention:
    """Return the attention for tensors of `dtype` and blocks of `block_size` tokens.

    `auto` takes the compiled kernel where a compiler is at hand and heads and blocks fit it.
    """
    if kernels == "torch" or not NativeAttention.serves(config, dtype, block_size):
        return TorchAttention(config, window)
    library = compiler.library("paged_attention")
    if library is None:
        return TorchAttention(config, window)
    return NativeAttention(library, config, window)
