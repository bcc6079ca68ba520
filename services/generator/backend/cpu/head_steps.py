"""Norms (QK norm) and RoPE of query and key heads, step by step before attention."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from services.generator.backend.cpu.attention import Attention
from services.generator.model.checkpoint.config import ModelConfig
from services.generator.model.kv_cache import LayerCache
from services.generator.model.rope import Rotation

# Changes [T, q_size + 2 kv_size] in place, with one rotation per kind of layer.
HeadStep = Callable[[torch.Tensor, Sequence[Rotation]], None]


@dataclass(frozen=True, slots=True)
class SteppedAttention:
    """Steps on the heads in place, one after the other, then attention."""

    steps: tuple[HeadStep, ...]
    attention: Attention

    def __call__(
        self, qkv: torch.Tensor, cache: LayerCache, plan: Any, rotations: Sequence[Rotation]
    ) -> torch.Tensor:
        """See `HeadAttention`."""
        for step in self.steps:
            step(qkv, rotations)
        return self.attention(qkv, cache, plan)


class HeadNorm:
    """RMS norm of each query and key head by itself, in float32 (arXiv:2010.04245)."""

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        """`weight` is float32 [query heads + key heads, head_dim]."""
        self._weight = weight
        self._eps = eps

    def __call__(self, qkv: torch.Tensor, rotations: Sequence[Rotation]) -> None:
        heads = qkv[:, : self._weight.numel()].view(len(qkv), *self._weight.shape)
        normed = functional.rms_norm(heads.float(), heads.shape[-1:], eps=self._eps)
        heads.copy_(normed.mul_(self._weight))


class HeadRotation:
    """Turns the first `dim` dimensions of each query and key head by the token's position."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        """`index` is that of the layer's setting in `config.ropes`."""
        dim = config.ropes[index].dim
        self._index = index
        self._shape = (config.num_heads + config.num_kv_heads, 2, dim // 2)
        self._strides = (config.head_dim, dim // 2, 1)

    def __call__(self, qkv: torch.Tensor, rotations: Sequence[Rotation]) -> None:
        heads = qkv.as_strided((qkv.shape[0], *self._shape), (qkv.stride(0), *self._strides))
        rotations[self._index].apply_(heads)
