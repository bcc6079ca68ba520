"""Layer of a decoder, and layers run one after the other.

As in "Attention is all you need" (arXiv:1706.03762), norms first, and what came after it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from services.generator.model.head_attention import HeadAttention
from services.generator.model.kv_cache import KVCache, LayerCache
from services.generator.model.linear import Linear
from services.generator.model.mlp import ResidualBranch
from services.generator.model.norm import Norm


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer; q, k, v are stacked so that they are one product."""

    attention_norm: Norm
    qkv: Linear  # hidden -> q_size + 2 kv_size
    attention: HeadAttention
    plan_index: int  # of its window's in a pass
    out: ResidualBranch  # q_size -> hidden
    mlp_norm: Norm
    mlp: ResidualBranch  # hidden -> hidden

    def __call__(
        self,
        hidden: torch.Tensor,
        cache: LayerCache,
        plans: Sequence[Any],
        rotations: Sequence[Any],
    ) -> torch.Tensor:
        """Map [T, hidden] to [T, hidden], writing the tokens' keys and values to the cache.

        `plans` and `rotations` are what all layers share in one pass, one per kind of layer.
        """
        qkv = self.qkv(self.attention_norm(hidden))
        attended = self.attention(qkv, cache, plans[self.plan_index], rotations)
        hidden = self.out.add_to(attended, hidden)
        return self.mlp.add_to(self.mlp_norm(hidden), hidden)


class LayerStack(Protocol):
    """All layers of a decoder, as a device runs them."""

    def __call__(
        self,
        hidden: torch.Tensor,
        cache: KVCache,
        plans: Sequence[Any],
        rotations: Sequence[Any],
        overlap: Callable[[], None],
    ) -> torch.Tensor:
        """Map [T, hidden] to [T, hidden], good until the next call; call `overlap` once."""
        ...


class LayerByLayer:
    """Runs each operation of each layer by itself, whatever they are made of."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = layers

    def __call__(
        self,
        hidden: torch.Tensor,
        cache: KVCache,
        plans: Sequence[Any],
        rotations: Sequence[Any],
        overlap: Callable[[], None],
    ) -> torch.Tensor:
        """Map [T, hidden] to [T, hidden]; `overlap` is called before."""
        overlap()
        for layer, layer_cache in zip(self._layers, cache.layers, strict=True):
            hidden = layer(hidden, layer_cache, plans, rotations)
        return hidden

    def __repr__(self) -> str:
        return f"LayerByLayer({len(self._layers)} layers)"
