"""The Llama decoder (Touvron et al. 2023, arXiv:2302.13971) as plain calls over packed weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from services.generator.model.attention import AttentionPlan, PagedAttention
from services.generator.model.config import ModelConfig
from services.generator.model.kv_cache import KVCache, LayerCache
from services.generator.model.linear import Linear
from services.generator.model.rope import Rotation, rope_frequencies, rotation


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One decoder layer; q, k, v and gate, up are stacked so that each pair is one product."""

    attention_norm: torch.Tensor  # [hidden]
    qkv: Linear  # hidden -> q_size + 2 kv_size
    out: Linear  # q_size -> hidden
    mlp_norm: torch.Tensor  # [hidden]
    gate_up: Linear  # hidden -> 2 intermediate
    down: Linear  # intermediate -> hidden


@dataclass(frozen=True, slots=True)
class LlamaWeights:
    """Everything that is read from a checkpoint."""

    embedding: torch.Tensor  # [vocab, hidden]
    layers: list[LayerWeights]
    norm: torch.Tensor  # [hidden]
    lm_head: Linear  # hidden -> vocab


class Llama:
    """Runs a flat batch of tokens from many requests against a paged cache."""

    def __init__(self, config: ModelConfig, weights: LlamaWeights) -> None:
        self.config = config
        self.dtype = weights.embedding.dtype
        self._weights = weights
        self._attention = PagedAttention(config)
        self._frequencies = rope_frequencies(config.rope, config.head_dim)

    def forward(
        self,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        plan: AttentionPlan,
        cache: KVCache,
        rows: torch.Tensor,
    ) -> torch.Tensor:
        """Return logits [len(rows), vocab] of the chosen rows.

        `token_ids` and `positions` are int64 [T], `rows` int64 indices into them. Every token's
        keys and values are written to the cache, whether or not its row is chosen.
        """
        angles = rotation(positions, self._frequencies, self.dtype)
        hidden = functional.embedding(token_ids, self._weights.embedding)
        for weights, layer_cache in zip(self._weights.layers, cache.layers, strict=True):
            hidden = self._layer(hidden, weights, layer_cache, angles, plan)
        return self._weights.lm_head(self._norm(hidden[rows], self._weights.norm))

    def _layer(
        self,
        hidden: torch.Tensor,
        weights: LayerWeights,
        cache: LayerCache,
        angles: Rotation,
        plan: AttentionPlan,
    ) -> torch.Tensor:
        config = self.config
        qkv = weights.qkv(self._norm(hidden, weights.attention_norm))
        rotated = qkv[:, : config.q_size + config.kv_size]
        angles.apply_(rotated.view(len(qkv), -1, 2, config.head_dim // 2))
        hidden = weights.out.add_to(self._attention(qkv, cache, plan), hidden)
        gate, up = weights.gate_up(self._norm(hidden, weights.mlp_norm)).chunk(2, dim=-1)
        return weights.down.add_to(functional.silu(gate).mul_(up), hidden)

    def _norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(x, weight.shape, weight, self.config.rms_norm_eps)
