"""Parts of a model as one backend computes them best: the seam between model and backend."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch

from services.generator.model.activation import Activation
from services.generator.model.checkpoint.grouped_weight import GroupedWeight
from services.generator.model.checkpoint.layer_config import ExpertsConfig
from services.generator.model.checkpoint.packed_weight import PackedWeight
from services.generator.model.checkpoint.rope_config import RopeConfig
from services.generator.model.head_attention import HeadAttention, Planner
from services.generator.model.layer import Layer, LayerStack
from services.generator.model.linear import Linear
from services.generator.model.mlp import ResidualBranch
from services.generator.model.norm import Norm


class Parts(Protocol):
    """Makes the parts of a model of one configuration and dtype; vectors come in that dtype."""

    device: torch.device  # where weights go and everything is computed
    weight_dtype: torch.dtype  # in which matrices come

    def lookup(
        self, table: torch.Tensor | GroupedWeight, scale: float | None
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return what maps int64 ids [T] to rows of the table, times `scale` if given."""
        ...

    def rope(self, config: RopeConfig) -> Callable[[torch.Tensor], Any]:
        """Return what maps int64 positions [T] to the angles that head attention takes."""
        ...

    def planner(self, window: int | None) -> Planner:
        """Return what makes of a step's block tables the plan of all layers with this window."""
        ...

    def head_attention(
        self, window: int | None, norm_weight: torch.Tensor | None, rope_index: int | None
    ) -> HeadAttention:
        """Return one layer's attention, after what happens to query and key heads first.

        `norm_weight` is float32 [query and key heads, head_dim]; None means no such step.
        """
        ...

    def stack(self, layers: Sequence[Layer]) -> LayerStack:
        """Return the layers as this device runs them one after the other."""
        ...

    def rms_norm(self, weight: torch.Tensor) -> Norm:
        """Return the norm of hidden states; `weight` is [hidden] of any dtype."""
        ...

    def activation(self) -> Activation:
        """Return what stands between up and down; where gated, of gate and up side by side."""
        ...

    def linear(
        self, weight: torch.Tensor, bias: torch.Tensor | None = None, adds: bool = False
    ) -> Linear:
        """Return the linear layer of [out, in] weights; `adds` if it ends a residual branch."""
        ...

    def packed_linear(
        self, weight: PackedWeight, bias: torch.Tensor | None = None, adds: bool = False
    ) -> Linear:
        """Return the linear layer of a matrix that the checkpoint has in four bits."""
        ...

    def grouped_linear(
        self,
        weights: Sequence[GroupedWeight],
        bias: torch.Tensor | None = None,
        adds: bool = False,
    ) -> Linear:
        """Return the linear layer of matrices of 4 or 8 bits in groups of the same inputs.

        The outputs of one follow those of the other.
        """
        ...

    def head(self, weight: torch.Tensor | GroupedWeight) -> Linear:
        """Return the linear layer that maps hidden states to logits, [vocab, hidden]."""
        ...

    def mixture(
        self,
        config: ExpertsConfig,
        router: torch.Tensor,
        experts: Iterable[tuple[torch.Tensor, torch.Tensor]],
    ) -> ResidualBranch:
        """Return a mixture of experts.

        `router`, never quantised, is [experts, hidden]; each expert is gate and up, [2 inner,
        hidden], and down, [hidden, inner].
        """
        ...
