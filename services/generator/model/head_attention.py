"""Head attention: all that a layer does between its stacked projection and its output's."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from services.generator.model.kv_cache import LayerCache

# Returns, of a step's block tables and the size of blocks, what layers with one window share.
Planner = Callable[[Any, int], Any]


class HeadAttention(Protocol):
    """All that a layer does between its stacked projection and its output's."""

    def __call__(
        self, qkv: torch.Tensor, cache: LayerCache, plan: Any, rotations: Sequence[Any]
    ) -> torch.Tensor:
        """Map [T, q_size + 2 kv_size] to [T, q_size], writing keys and values to the cache.

        `plan` is that of the layer's window; `rotations` has one for each kind of layer.
        """
        ...
