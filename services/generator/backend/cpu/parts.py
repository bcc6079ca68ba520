"""Parts of a model on a CPU: compiled kernels where there is a compiler, else torch."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch.nn import functional

from services.generator.backend.cpu.attention.head_steps import (
    HeadNorm,
    HeadRotation,
    HeadStep,
    NativeHeadSteps,
    SteppedAttention,
)
from services.generator.backend.cpu.attention.paged_attention import Attention, attention
from services.generator.backend.cpu.compiled_layers import CompiledLayers
from services.generator.backend.cpu.gated_activation import gated_activation
from services.generator.backend.cpu.huge_pages import HugePages
from services.generator.backend.cpu.linear.bf16_linear import bf16_linear
from services.generator.backend.cpu.linear.float_linear import float_linear
from services.generator.backend.cpu.linear.grouped_linear import grouped_linear
from services.generator.backend.cpu.linear.native_linear import NativeLinear
from services.generator.backend.cpu.linear.onednn_linear import OneDnnLinear
from services.generator.backend.cpu.rms_norm import RMSNorm
from services.generator.model.activation import Activation, activation
from services.generator.model.checkpoint.config import ModelConfig
from services.generator.model.checkpoint.grouped_weight import GroupedWeight
from services.generator.model.checkpoint.layer_config import ExpertsConfig
from services.generator.model.checkpoint.packed_weight import PackedWeight
from services.generator.model.checkpoint.rope_config import RopeConfig
from services.generator.model.head_attention import HeadAttention, Planner
from services.generator.model.layer import Layer, LayerByLayer, LayerStack
from services.generator.model.linear import Linear
from services.generator.model.mlp import Expert, Mixture, ResidualBranch
from services.generator.model.norm import Norm
from services.generator.model.rope import Rope, Rotation

# of all matrices but embeddings and routers
QUANTIZED_BITS: Mapping[str | None, int | None] = {None: None, "int8": 8, "int4": 4}


class CpuParts:
    """The `Parts` of a CPU; a compiled kernel serves where it takes the shape.

    Rows are of `dtype`, matrices are kept in `weight_dtype`, the same if None. `kernels` torch
    keeps attention to torch's operations. `quantization` int8 or int4 rounds all matrices
    but embeddings and routers. Those of 4 or 8 bits are multiplied with rows of 8 bits, or become
    floats if `exact`.
    """

    def __init__(
        self,
        config: ModelConfig,
        dtype: torch.dtype,
        *,
        weight_dtype: torch.dtype | None = None,
        kernels: str = "auto",
        quantization: str | None = None,
        exact: bool = False,
        batch_invariant: bool = True,
        block_size: int = 16,
    ) -> None:
        self.device = torch.device("cpu")
        self._config = config
        self.weight_dtype = weight_dtype or dtype
        self._dtype = dtype
        self._kernels = kernels
        self._quantized_bits = QUANTIZED_BITS[quantization]
        self._exact = exact
        self._batch_invariant = batch_invariant
        self._block_size = block_size
        self._memory = HugePages()
        self._attentions: dict[int | None, Attention] = {}
        self._linear_kinds: dict[str, None] = {}

    def lookup(
        self, table: torch.Tensor | GroupedWeight, scale: float | None
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """See `Parts`."""

        def rows(ids: torch.Tensor) -> torch.Tensor:
            if isinstance(table, GroupedWeight):
                vectors = table.reordered(ids).dequantized(self._dtype)
            else:
                vectors = functional.embedding(ids, table).to(self._dtype)
            return vectors if scale is None else vectors * scale

        return rows

    def rope(self, config: RopeConfig) -> Callable[[torch.Tensor], Rotation]:
        """See `Parts`."""
        return Rope(config)

    def planner(self, window: int | None) -> Planner:
        """See `Parts`."""
        return self._attention(window).plan

    def head_attention(
        self, window: int | None, norm_weight: torch.Tensor | None, rope_index: int | None
    ) -> HeadAttention:
        """See `Parts`."""
        steps = self._steps(norm_weight, rope_index)
        return SteppedAttention(tuple(steps), self._attention(window))

    def stack(self, layers: Sequence[Layer]) -> LayerStack:
        """See `Parts`; one program where every part is a compiled kernel."""
        return CompiledLayers.of(layers) or LayerByLayer(layers)

    def rms_norm(self, weight: torch.Tensor) -> Norm:
        """See `Parts`."""
        return RMSNorm(weight, self._config.norm_eps)

    def activation(self) -> Activation:
        """See `Parts`."""
        name = self._config.activation
        if not self._config.family.is_gated:
            return activation(name, self._batch_invariant)
        return gated_activation(name, self._dtype, self._batch_invariant, self._kernels)

    def linear(
        self, weight: torch.Tensor, bias: torch.Tensor | None = None, adds: bool = False
    ) -> Linear:
        """See `Parts`."""
        if self._quantized_bits is not None:
            grouped = GroupedWeight.quantized(weight, self._quantized_bits)
            return self.grouped_linear([grouped], bias, adds)
        return self._noted(self._float_linear(weight, bias, adds))

    def head(self, weight: torch.Tensor | GroupedWeight) -> Linear:
        """See `Parts`; quantised it takes 8 bits, since every logit is its own."""
        if isinstance(weight, GroupedWeight):
            return self.grouped_linear([weight])
        if self._quantized_bits is not None:
            return self.grouped_linear([GroupedWeight.quantized(weight, 8)])
        return self.linear(weight)

    def grouped_linear(
        self,
        weights: Sequence[GroupedWeight],
        bias: torch.Tensor | None = None,
        adds: bool = False,
    ) -> Linear:
        """See `Parts`; where nothing multiplies them, the weights become floats."""
        weight = GroupedWeight.stacked(weights)
        ours = grouped_linear(weight, self._dtype, bias, self._memory, self._exact)
        if ours is None:
            dtype = torch.float32 if self._exact else self.weight_dtype
            return self._noted(self._float_linear(weight.dequantized(dtype), bias, adds))
        return self._noted(ours)

    def _noted(self, linear: NativeLinear | OneDnnLinear) -> Linear:
        self._linear_kinds[linear.kind] = None
        return linear

    def _float_linear(
        self, weight: torch.Tensor, bias: torch.Tensor | None, adds: bool
    ) -> NativeLinear | OneDnnLinear:
        if self._dtype == torch.float32:
            ours: NativeLinear | None = float_linear(weight, bias, self._memory)
        else:
            ours = bf16_linear(weight.to(self._dtype), bias, self._memory)
        return ours or OneDnnLinear(weight.to(self._dtype), bias, self._batch_invariant, adds)

    def packed_linear(
        self, weight: PackedWeight, bias: torch.Tensor | None = None, adds: bool = False
    ) -> Linear:
        """See `Parts`."""
        return self.grouped_linear([weight.grouped()], bias, adds)

    def mixture(
        self,
        config: ExpertsConfig,
        router: torch.Tensor,
        experts: Iterable[tuple[torch.Tensor, torch.Tensor]],
    ) -> ResidualBranch:
        """See `Parts`."""
        gate = self.activation()
        members = [Expert(self.linear(up), self.linear(down), gate) for up, down in experts]
        router_linear = OneDnnLinear(router.to(self._dtype), batch_invariant=self._batch_invariant)
        return Mixture(router_linear, members, config.num_chosen, config.normalizes)

    def describe(self) -> str:
        """Return in words what computes the products and the attention of the model made so far."""
        attentions = dict.fromkeys(type(each).__name__ for each in self._attentions.values())
        rows = str(self._dtype).removeprefix("torch.")
        return f"{', '.join(self._linear_kinds)}, {rows} rows, {', '.join(attentions)}"

    def _attention(self, window: int | None) -> Attention:
        if window not in self._attentions:
            self._attentions[window] = attention(
                self._config, window, self._dtype, self._kernels, self._block_size
            )
        return self._attentions[window]

    def _steps(self, norm_weight: torch.Tensor | None, rope_index: int | None) -> list[HeadStep]:
        if norm_weight is None and rope_index is None:
            return []
        if self._kernels != "torch" and NativeHeadSteps.serves(self._config, self._dtype):
            return [NativeHeadSteps(self._config, norm_weight, rope_index)]
        steps: list[HeadStep] = []
        if norm_weight is not None:
            steps.append(HeadNorm(norm_weight, self._config.norm_eps))
        if rope_index is not None:
            steps.append(HeadRotation(self._config, rope_index))
        return steps
