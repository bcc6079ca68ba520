"""Parts of a model on a GPU: Triton kernels, and torch's library for unquantised linear layers."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch.nn import functional

from services.generator.backend.gpu.layers.attention import PagedHeadAttention, check_heads
from services.generator.backend.gpu.layers.mixture import GroupedMixture, stack_experts
from services.generator.backend.gpu.layers.quantized_linear import (
    Fp8Linear,
    Int8Linear,
    PackedLinear,
)
from services.generator.backend.gpu.layers.rope import Angles, AngleTable
from services.generator.backend.gpu.layers.torch_linear import TorchLinear
from services.generator.backend.gpu.triton.elementwise.embedding import embedding
from services.generator.backend.gpu.triton.elementwise.gated_activation import (
    ACTIVATIONS,
    gated_activation,
)
from services.generator.backend.gpu.triton.elementwise.rms_norm import rms_norm
from services.generator.model.activation import Activation, activation
from services.generator.model.checkpoint.config import ModelConfig
from services.generator.model.checkpoint.grouped_weight import GroupedWeight
from services.generator.model.checkpoint.layer_config import ExpertsConfig
from services.generator.model.checkpoint.packed_weight import PackedWeight
from services.generator.model.checkpoint.rope_config import RopeConfig
from services.generator.model.head_attention import HeadAttention, Planner
from services.generator.model.layer import Layer, LayerByLayer, LayerStack
from services.generator.model.linear import Linear
from services.generator.model.mlp import ResidualBranch
from services.generator.model.norm import Norm

_LinearType = Callable[[torch.Tensor, torch.Tensor | None], Linear]
_LINEAR_TYPES: Mapping[str | None, _LinearType] = {
    None: TorchLinear,
    "int8": Int8Linear,
    "fp8": Fp8Linear,
}


class GpuParts:
    """The `Parts` of a CUDA device, or of the CPU under Triton's interpreter.

    `quantization` int8 or fp8 rounds all matrices but embeddings, routers, experts, and what the
    checkpoint has packed. Raises ModelConfigError for a model that they do not take.
    """

    def __init__(
        self,
        config: ModelConfig,
        device: torch.device,
        weight_dtype: torch.dtype,
        quantization: str | None = None,
    ) -> None:
        check_heads(config)
        self.device = device
        self.weight_dtype = weight_dtype
        self._config = config
        self._linear_type = _LINEAR_TYPES[quantization]

    def lookup(
        self, table: torch.Tensor | GroupedWeight, scale: float | None
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """See `Parts`."""
        if isinstance(table, GroupedWeight):
            table = table.dequantized(self.weight_dtype).to(self.device)
        rows = table
        return lambda ids: embedding(ids, rows, scale)

    def rope(self, config: RopeConfig) -> Callable[[torch.Tensor], Angles]:
        """See `Parts`."""
        return AngleTable(config, self._config.context_length, self.device)

    def planner(self, window: int | None) -> Planner:
        """See `Parts`; the tables of a step serve every window."""
        return lambda tables, block_size: tables

    def head_attention(
        self, window: int | None, norm_weight: torch.Tensor | None, rope_index: int | None
    ) -> HeadAttention:
        """See `Parts`."""
        return PagedHeadAttention(self._config, window, norm_weight, rope_index, self.device)

    def stack(self, layers: Sequence[Layer]) -> LayerStack:
        """See `Parts`."""
        return LayerByLayer(layers)

    def rms_norm(self, weight: torch.Tensor) -> Norm:
        """See `Parts`."""
        eps = self._config.norm_eps
        return lambda x: rms_norm(x, weight, eps)

    def activation(self) -> Activation:
        """See `Parts`."""
        name = self._config.activation
        if not self._config.family.is_gated:
            return activation(name, batch_invariant=False)
        if name in ACTIVATIONS:
            return lambda gate_up: gated_activation(gate_up, name)
        return _gelu_gated

    def linear(
        self, weight: torch.Tensor, bias: torch.Tensor | None = None, adds: bool = False
    ) -> Linear:
        """See `Parts`."""
        return self._linear_type(weight, bias)

    def packed_linear(
        self, weight: PackedWeight, bias: torch.Tensor | None = None, adds: bool = False
    ) -> Linear:
        """See `Parts`; the weights stay in four bits."""
        return PackedLinear(weight, bias)

    def grouped_linear(
        self, weight: GroupedWeight, bias: torch.Tensor | None = None, adds: bool = False
    ) -> Linear:
        """See `Parts`; the weight becomes floats."""
        return self.linear(weight.dequantized(self.weight_dtype).to(self.device), bias, adds)

    def head(self, weight: torch.Tensor | GroupedWeight) -> Linear:
        """See `Parts`."""
        if isinstance(weight, GroupedWeight):
            return self.grouped_linear(weight)
        return self.linear(weight)

    def mixture(
        self,
        config: ExpertsConfig,
        router: torch.Tensor,
        experts: Iterable[tuple[torch.Tensor, torch.Tensor]],
    ) -> ResidualBranch:
        """See `Parts`."""
        stacks = stack_experts(experts, config.num_experts, self.device)
        chosen = config.num_chosen, config.normalizes
        return GroupedMixture(TorchLinear(router), *stacks, self.activation(), *chosen)


def _gelu_gated(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.gelu(gate) * up
