"""A decoder of any family, as calls over packed weights; the loader has decided every variation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from services.generator.model.attention import Attention
from services.generator.model.compiled_layers import CompiledLayers
from services.generator.model.config import ModelConfig
from services.generator.model.kv_cache import KVCache
from services.generator.model.layer import Layer, LayerByLayer
from services.generator.model.norm import Norm
from services.generator.model.pages import Pages
from services.generator.model.projection import Projection
from services.generator.model.rope import Rope, Rotation
from services.generator.model.soft_cap import soft_cap_


class Embedding:
    """Token rows, times `scale` if any, plus position rows if any."""

    def __init__(
        self, tokens: torch.Tensor, scale: float | None, positions: torch.Tensor | None
    ) -> None:
        self.dtype = tokens.dtype
        self._tokens = tokens
        self._scale = scale
        self._positions = positions

    def __call__(self, token_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return [T, hidden]."""
        hidden = functional.embedding(token_ids, self._tokens)
        if self._scale is not None:
            hidden = hidden * self._scale
        if self._positions is not None:
            hidden = hidden + functional.embedding(positions, self._positions)
        return hidden


class Pass(NamedTuple):
    """A batch without its tokens, as all layers see it."""

    positions: torch.Tensor  # [T] int64
    rows: torch.Tensor  # int64, whose logits are wanted
    plans: list[Any]  # of attention, one for each window
    rotations: list[Rotation]


class Decoder:
    """Runs a flat batch of tokens from many requests against a paged cache."""

    def __init__(
        self,
        config: ModelConfig,
        embedding: Embedding,
        attentions: Sequence[Attention],
        layers: Sequence[Layer],
        norm: Norm,
        head: Projection,
    ) -> None:
        self.config = config
        self.dtype = embedding.dtype
        self._attentions = attentions
        self._embedding = embedding
        self._layers = CompiledLayers.of(layers) or LayerByLayer(layers)
        self._norm = norm
        self._head = head
        self._ropes = [Rope(rope) for rope in config.ropes]

    def forward(
        self,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        pages: Pages,
        cache: KVCache,
        rows: torch.Tensor,
    ) -> torch.Tensor:
        """Return logits [len(rows), vocab] of the chosen rows.

        `token_ids` and `positions` are int64 [T], `rows` int64 indices into them. Every token's
        keys and values are written to the cache, whether or not its row is chosen.
        """
        return self.run(token_ids, self.prepare(positions, pages, cache, rows), cache)

    def prepare(
        self, positions: torch.Tensor, pages: Pages, cache: KVCache, rows: torch.Tensor
    ) -> Pass:
        """Return all that a pass needs but its tokens."""
        plans = [each.plan(pages, cache.block_size) for each in self._attentions]
        return Pass(positions, rows, plans, [rope(positions) for rope in self._ropes])

    def run(
        self,
        token_ids: torch.Tensor,
        prepared: Pass,
        cache: KVCache,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> torch.Tensor:
        """Return what `forward` does; call `meanwhile` once, while layers compute if they can."""
        hidden = self._embedding(token_ids, prepared.positions)
        hidden = self._layers(hidden, cache, prepared.plans, prepared.rotations, meanwhile)
        return self._logits(hidden[prepared.rows])

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = self._head(self._norm(hidden))
        if self.config.logit_softcap is not None:
            logits = soft_cap_(logits, self.config.logit_softcap)
        return logits

    def __repr__(self) -> str:
        return f"Decoder({self.config.family.architectures[0]}, {self._layers!r})"
