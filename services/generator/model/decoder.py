"""Decoder-only transformer of any family: calls over parts; the loader has decided variations."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from services.generator.model.activation import soft_cap_
from services.generator.model.block_tables import BlockTables
from services.generator.model.checkpoint.config import ModelConfig
from services.generator.model.head_attention import Planner
from services.generator.model.kv_cache import KVCache
from services.generator.model.layer import LayerStack
from services.generator.model.linear import Linear
from services.generator.model.norm import Norm

Lookup = Callable[[torch.Tensor], torch.Tensor]


class Embedding:
    """Token rows, plus position rows if any; both [ids] to [ids, hidden]."""

    def __init__(self, tokens: Lookup, positions: Lookup | None) -> None:
        self._tokens = tokens
        self._positions = positions

    def __call__(self, token_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return [T, hidden]."""
        hidden = self._tokens(token_ids)
        return hidden if self._positions is None else hidden + self._positions(positions)


class ForwardPass(NamedTuple):
    """A batch without its tokens, as all layers see it."""

    positions: torch.Tensor  # [T] int64
    rows: torch.Tensor  # int64, whose logits are wanted
    plans: list[Any]  # one for each window
    rotations: list[Any]  # one for each kind of layer


class Decoder:
    """Runs a flat batch of tokens from many requests against a paged cache."""

    def __init__(
        self,
        config: ModelConfig,
        dtype: torch.dtype,
        embedding: Embedding,
        ropes: Sequence[Callable[[torch.Tensor], Any]],
        planners: Sequence[Planner],
        layers: LayerStack,
        norm: Norm,
        head: Linear,
    ) -> None:
        self.config = config
        self.dtype = dtype
        self._planners = planners
        self._embedding = embedding
        self._layers = layers
        self._norm = norm
        self._head = head
        self._ropes = ropes

    def forward(
        self,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        tables: BlockTables,
        cache: KVCache,
        rows: torch.Tensor,
    ) -> torch.Tensor:
        """Return logits [len(rows), vocab] of the chosen rows.

        `token_ids` and `positions` are int64 [T], `rows` int64 indices into them. Every token's
        keys and values are written to the cache, whether or not its row is chosen.
        """
        return self.run(token_ids, self.prepare(positions, tables, cache, rows), cache)

    def prepare(
        self, positions: torch.Tensor, tables: Any, cache: KVCache, rows: torch.Tensor
    ) -> ForwardPass:
        """Return all that a forward pass needs but its tokens; `tables` are those of its device."""
        plans = [plan(tables, cache.block_size) for plan in self._planners]
        return ForwardPass(positions, rows, plans, [rope(positions) for rope in self._ropes])

    def run(
        self,
        token_ids: torch.Tensor,
        prepared: ForwardPass,
        cache: KVCache,
        overlap: Callable[[], None] = lambda: None,
    ) -> torch.Tensor:
        """Return what `forward` does; call `overlap` once, while layers compute if they can."""
        hidden = self.hidden_states(token_ids, prepared, cache, overlap)
        return self.logits(hidden[prepared.rows])

    def hidden_states(
        self,
        token_ids: torch.Tensor,
        prepared: ForwardPass,
        cache: KVCache,
        overlap: Callable[[], None] = lambda: None,
    ) -> torch.Tensor:
        """Return [T, hidden] after all layers, good until the next call."""
        hidden = self._embedding(token_ids, prepared.positions)
        return self._layers(hidden, cache, prepared.plans, prepared.rotations, overlap)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map [S, hidden] after all layers to logits [S, vocab]."""
        logits = self._head(self._norm(hidden))
        if self.config.logit_softcap is not None:
            logits = soft_cap_(logits, self.config.logit_softcap)
        return logits

    def __repr__(self) -> str:
        return f"Decoder({self.config.family.architectures[0]}, {self._layers!r})"
