"""Parts of a model on a GPU: Triton kernels, and torch's library for unquantised linear layers."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch.nn import functional

from services.generator.backend.gpu.layers.attention import PagedHeadAttention, check_heads
from services.generator.backend.gpu.layers.grouped_linear import GroupedLinear, SideBySide
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


def _int4_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    return GroupedLinear([GroupedWeight.quantized(weight, 4)], bias, weight.device)


_LINEAR_TYPES: Mapping[str | None, _LinearType] = {
    None: TorchLinear,
    "int8": Int8Linear,
    "int4": _int4_linear,
    "fp8": Fp8Linear,
}


# what weights are kept in, None if in the model's dtype
_KEPT: Mapping[object, str | None] = {
    TorchLinear: None,
    Int8Linear: "in int8",
    Fp8Linear: "in fp8",
    _int4_linear: "packed in 4 bits",
    GroupedLinear: "packed in 4 bits",
    PackedLinear: "packed in 4 bits",
}


class GpuParts:
    """The `Parts` of a CUDA device, or of the CPU under Triton's interpreter.

    `quantization` int8, int4 or fp8 rounds all matrices but embeddings, routers, experts, and what
    the checkpoint has in four bits; int4 leaves eight to the head and to what the checkpoint has in
    eight. Raises ModelConfigError for a model that they do not take.
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
        self._kept: dict[str, None] = {}
        self._linear_type = _LINEAR_TYPES[quantization]
        self._wide_type = Int8Linear if quantization == "int4" else self._linear_type

    def lookup(
        self, table: torch.Tensor | GroupedWeight, scale: float | None
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """See `Parts`."""
        if isinstance(table, GroupedWeight):
            self._note(f"{table.kind} of embeddings", TorchLinear)
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
        self._note("floats", self._linear_type)
        return self._linear_type(weight, bias)

    def packed_linear(
        self, weight: PackedWeight, bias: torch.Tensor | None = None, adds: bool = False
    ) -> Linear:
        """See `Parts`; the weights stay in four bits."""
        self._note(weight.layout, PackedLinear)
        return PackedLinear(weight, bias)

    def grouped_linear(
        self,
        weights: Sequence[GroupedWeight],
        bias: torch.Tensor | None = None,
        adds: bool = False,
    ) -> Linear:
        """See `Parts`; four bits stay packed, others become floats."""
        linears: list[Linear] = []
        start = 0
        for is_packed, run in itertools.groupby(weights, GroupedLinear.takes):
            members = list(run)
            end = start + sum(each.shape[0] for each in members)
            part = None if bias is None else bias[start:end]
            for each in members:
                self._note(each.kind, GroupedLinear if is_packed else self._wide_type)
            if is_packed:
                linears.append(GroupedLinear(members, part, self.device))
            else:
                linears.append(self._wide_type(self._floats(members), part))
            start = end
        return linears[0] if len(linears) == 1 else SideBySide(linears)

    def _floats(self, weights: Sequence[GroupedWeight]) -> torch.Tensor:
        return torch.cat([each.dequantized(self.weight_dtype).to(self.device) for each in weights])

    def head(self, weight: torch.Tensor | GroupedWeight) -> Linear:
        """See `Parts`; where `quantization` is int4 in eight bits, since every logit is its own."""
        if isinstance(weight, GroupedWeight):
            return self.grouped_linear([weight])
        self._note("floats of the head", self._wide_type)
        return self._wide_type(weight, None)

    def mixture(
        self,
        config: ExpertsConfig,
        router: torch.Tensor,
        experts: Iterable[tuple[torch.Tensor, torch.Tensor]],
    ) -> ResidualBranch:
        """See `Parts`."""
        self._note("experts", TorchLinear)
        stacks = stack_experts(experts, config.num_experts, self.device)
        chosen = config.num_chosen, config.normalizes
        return GroupedMixture(TorchLinear(router), *stacks, self.activation(), *chosen)

    def describe(self) -> str:
        """Return in words what became of the weights, by the types that the checkpoint has."""
        return ", ".join(self._kept)

    def _note(self, kind: str, linear_type: object) -> None:
        dtype = str(self.weight_dtype).removeprefix("torch.")
        self._kept[f"{kind} {_KEPT[linear_type] or f'in {dtype}'}"] = None


def _gelu_gated(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.gelu(gate) * up
