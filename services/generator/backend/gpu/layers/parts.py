"""A model's parts on a GPU: Triton kernels, and torch's library for unquantised products."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch.nn import functional

from services.generator.backend.gpu.layers.attention import PagedHeads, check_heads
from services.generator.backend.gpu.layers.linear import Linear
from services.generator.backend.gpu.layers.mixture import GroupedMixture, stack_experts
from services.generator.backend.gpu.layers.quantized_linear import (
    Fp8Linear,
    Int8Linear,
    PackedLinear,
)
from services.generator.backend.gpu.layers.rope import Angles, AngleTable
from services.generator.backend.gpu.triton.elementwise.embedding import embedding
from services.generator.backend.gpu.triton.elementwise.gated_activation import (
    ACTIVATIONS,
    gated_activation,
)
from services.generator.backend.gpu.triton.elementwise.rms_norm import rms_norm
from services.generator.model.activation import Activation, activation
from services.generator.model.checkpoint.config import ModelConfig
from services.generator.model.checkpoint.layer_config import ExpertsConfig
from services.generator.model.checkpoint.packed_weight import PackedWeight
from services.generator.model.checkpoint.rope_config import RopeConfig
from services.generator.model.head_attention import HeadAttention, Planner
from services.generator.model.layer import Layer, LayerByLayer, LayerStack
from services.generator.model.mlp import Branch
from services.generator.model.norm import Norm
from services.generator.model.projection import Projection

_Linear = Callable[[torch.Tensor, torch.Tensor | None], Projection]
_LINEARS: Mapping[str | None, _Linear] = {None: Linear, "int8": Int8Linear, "fp8": Fp8Linear}


class GpuKernels:
    """The `Kernels` of a CUDA device, or of the CPU under Triton's interpreter.

    `quantization` int8 or fp8 rounds all matrices but embeddings, routers, experts, and what the
    checkpoint has packed. Raises ModelConfigError for a model that they do not take.
    """

    def __init__(
        self, config: ModelConfig, device: torch.device, quantization: str | None = None
    ) -> None:
        check_heads(config)
        self.device = device
        self._config = config
        self._linear = _LINEARS[quantization]

    def lookup(
        self, table: torch.Tensor, scale: float | None
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """See `Kernels`."""
        return lambda ids: embedding(ids, table, scale)

    def rope(self, config: RopeConfig) -> Callable[[torch.Tensor], Angles]:
        """See `Kernels`."""
        return AngleTable(config, self._config.context_length, self.device)

    def planner(self, window: int | None) -> Planner:
        """See `Kernels`; the tables of a step serve every window."""
        return lambda pages, block_size: pages

    def heads(
        self, window: int | None, norm_weight: torch.Tensor | None, rope_index: int | None
    ) -> HeadAttention:
        """See `Kernels`."""
        return PagedHeads(self._config, window, norm_weight, rope_index, self.device)

    def stack(self, layers: Sequence[Layer]) -> LayerStack:
        """See `Kernels`."""
        return LayerByLayer(layers)

    def rms_norm(self, weight: torch.Tensor) -> Norm:
        """See `Kernels`."""
        eps = self._config.norm_eps
        return lambda x: rms_norm(x, weight, eps)

    def activation(self) -> Activation:
        """See `Kernels`."""
        name = self._config.activation
        if not self._config.family.is_gated:
            return activation(name, batch_invariant=False)
        if name in ACTIVATIONS:
            return lambda gate_up: gated_activation(gate_up, name)
        return _gelu_gated

    def product(
        self, weight: torch.Tensor, bias: torch.Tensor | None = None, adds: bool = False
    ) -> Projection:
        """See `Kernels`."""
        return self._linear(weight, bias)

    def packed_product(
        self, weight: PackedWeight, bias: torch.Tensor | None = None, adds: bool = False
    ) -> Projection:
        """See `Kernels`; the weights stay in four bits."""
        return PackedLinear(weight, bias)

    def mixture(
        self,
        config: ExpertsConfig,
        router: torch.Tensor,
        experts: Iterable[tuple[torch.Tensor, torch.Tensor]],
    ) -> Branch:
        """See `Kernels`."""
        stacks = stack_experts(experts, config.num_experts, self.device)
        chosen = config.num_chosen, config.normalizes
        return GroupedMixture(Linear(router), *stacks, self.activation(), *chosen)


def _gelu_gated(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.gelu(gate) * up
