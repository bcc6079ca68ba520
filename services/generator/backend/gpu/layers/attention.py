"""Paged attention by the Triton kernels: one launch for RoPE and the cache, one or two attend."""

from collections.abc import Sequence

import torch

from services.generator.backend.gpu.block_tables import DeviceBlockTables
from services.generator.backend.gpu.layers.rope import Angles, no_turn
from services.generator.backend.gpu.triton.attention.checks import MAX_GROUP
from services.generator.backend.gpu.triton.attention.paged_decode import paged_decode
from services.generator.backend.gpu.triton.attention.paged_prefill import (
    HEAD_DIMS,
    paged_prefill,
)
from services.generator.backend.gpu.triton.attention.rope_write import rope_write
from services.generator.model.checkpoint.config import ModelConfig
from services.generator.model.errors import ModelConfigError
from services.generator.model.kv_cache import LayerCache


class PagedHeadAttention:
    """A `HeadAttention` over a cache with a token to a row.

    Decodes are split along their contexts and chunks are not, so in a mixed batch each have a
    launch of their own.
    """

    def __init__(
        self,
        config: ModelConfig,
        window: int | None,
        norm_weight: torch.Tensor | None,
        rope_index: int | None,
        device: torch.device,
    ) -> None:
        """`norm_weight` is float32 [query and key heads, head_dim]; None means no such step."""
        self._window = window
        self._norm_weight = None if norm_weight is None else norm_weight.contiguous()
        self._norm_eps = config.norm_eps
        self._rope_index = rope_index
        self._no_turn = no_turn(config.head_dim, device)
        self._scale = config.attention_scale
        self._soft_cap = config.attention_softcap
        self._heads, self._kv_heads = config.num_heads, config.num_kv_heads
        self._head_dim = config.head_dim
        self._q_size = config.q_size
        # a cache of eight bits holds what it is given, without a unit of its own
        self._units = torch.ones(config.num_kv_heads, device=device)

    def __call__(
        self,
        qkv: torch.Tensor,
        cache: LayerCache,
        plan: DeviceBlockTables,
        rotations: Sequence[Angles],
    ) -> torch.Tensor:
        """Map [T, q_size + 2 kv_size] to [T, q_size], writing keys and values to the cache."""
        k_cache, v_cache = self._views(cache)
        units = self._units if k_cache.dtype.itemsize == 1 else None
        cos, sin = self._no_turn if self._rope_index is None else rotations[self._rope_index]
        rope_write(
            *(qkv, cos.expand(len(qkv), -1), sin.expand(len(qkv), -1), plan.slots),
            *(k_cache, v_cache),
            num_heads=self._heads,
            num_kv_heads=self._kv_heads,
            head_dim=self._head_dim,
            norm_weight=self._norm_weight,
            eps=self._norm_eps,
            k_scale=units,
            v_scale=units,
        )
        q = qkv[:, : self._q_size].view(-1, self._heads, self._head_dim)
        count = plan.num_decodes
        parts: list[torch.Tensor] = []
        if count:
            tables = plan.block_table[:count], plan.lengths[:count]
            parts.append(
                paged_decode(
                    *(q[:count], k_cache, v_cache, *tables, self._scale),
                    window=self._window,
                    soft_cap=self._soft_cap,
                    k_scale=units,
                    v_scale=units,
                )
            )
        if count < len(q):
            parts.append(
                paged_prefill(
                    *(q[count:], k_cache, v_cache, plan.block_table[count:], plan.chunk_starts),
                    *(plan.lengths[count:], self._scale),
                    window=self._window,
                    soft_cap=self._soft_cap,
                    k_scale=units,
                    v_scale=units,
                )
            )
        attended = parts[0] if len(parts) == 1 else torch.cat(parts)
        return attended.flatten(1)

    def _views(self, cache: LayerCache) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values, each [num_blocks, block_size, KVH, D]."""
        shape = (len(cache.blocks), -1, 2, self._kv_heads, self._head_dim)
        keys, values = cache.blocks.view(shape).unbind(2)
        return keys, values


def check_heads(config: ModelConfig) -> None:
    """Raise ModelConfigError, naming the field, for heads that the kernels do not take."""
    if config.head_dim not in HEAD_DIMS:
        sizes = ", ".join(map(str, HEAD_DIMS))
        raise ModelConfigError("head_dim", f"{config.head_dim} is not one of: {sizes} (on a GPU)")
    if config.num_heads // config.num_kv_heads > MAX_GROUP:
        raise ModelConfigError(
            "num_key_value_heads", f"must be at least 1 to {MAX_GROUP} heads (on a GPU)"
        )
