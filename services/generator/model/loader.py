"""Loader of a decoder from a Hugging Face folder: names, stacking, dtype, choice of parts."""

from collections.abc import Iterator, Sequence

import torch

from services.generator.model.checkpoint.config import ModelConfig
from services.generator.model.checkpoint.grouped_weight import GroupedWeight
from services.generator.model.checkpoint.layer_config import ExpertsConfig, LayerConfig
from services.generator.model.checkpoint.packed_checkpoint import read_packed
from services.generator.model.checkpoint.packed_weight import PackedWeight
from services.generator.model.checkpoint.safetensors import Weights
from services.generator.model.decoder import Decoder, Embedding
from services.generator.model.errors import ModelConfigError
from services.generator.model.head_attention import HeadAttention
from services.generator.model.layer import Layer
from services.generator.model.linear import Linear
from services.generator.model.mlp import MLP, NormedLinear, ResidualBranch
from services.generator.model.norm import LayerNorm, Norm
from services.generator.model.parts import Parts

# float16 has no fast path on CPUs and a narrower range than its float32 image, which is exact.
_COMPUTE_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float32,
}


def build_decoder(
    config: ModelConfig, weights: Weights, dtype: torch.dtype, parts: Parts
) -> Decoder:
    """Return the model of these weights for the device of its parts; raises WeightError."""
    return _Loader(config, weights, dtype, parts).decoder()


def compute_dtype(config: ModelConfig, dtype: str | None, widens_half: bool = True) -> torch.dtype:
    """Return the dtype of weights and rows; ModelConfigError for one that is not supported."""
    name = dtype or config.dtype
    if name not in _COMPUTE_DTYPES:
        raise ModelConfigError("dtype", f"{name} is not one of: {', '.join(_COMPUTE_DTYPES)}")
    return torch.float16 if name == "float16" and not widens_half else _COMPUTE_DTYPES[name]


class _Loader:
    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        dtype: torch.dtype,
        parts: Parts,
    ) -> None:
        self._config = config
        self._parts = parts
        self._planners = [parts.planner(window) for window in config.windows]
        self._activation = parts.activation()
        self._names = config.family.weights
        self._weights = weights
        self._dtype = dtype
        roots, embedding = self._names.roots, f"{self._names.embedding}.weight"
        self._root = next((root for root in roots if root + embedding in weights), roots[0])

    def decoder(self) -> Decoder:
        config, names = self._config, self._names
        vocab_shape = (config.vocab_size, config.hidden_size)
        tokens = self._rows(f"{self._root}{names.embedding}.weight", *vocab_shape)
        head = tokens
        if not config.tie_word_embeddings:
            head = self._rows(f"{names.head}.weight", *vocab_shape)
        return Decoder(
            config,
            self._dtype,
            self._embedding(tokens),
            [self._parts.rope(rope) for rope in config.ropes],
            self._planners,
            self._parts.stack(
                [
                    self._layer(f"{self._root}{names.layer.format(index)}", layer)
                    for index, layer in enumerate(config.layers)
                ]
            ),
            self._norm(f"{self._root}{names.norm}"),
            self._parts.head(head),
        )

    def _embedding(self, tokens: torch.Tensor | GroupedWeight) -> Embedding:
        config = self._config
        scale = None
        if config.family.scales_embedding:
            # Rounded as the model was trained with it.
            scale = torch.tensor(config.hidden_size**0.5, dtype=self._dtype).item()
        positions = None
        if self._names.positions is not None:
            name = f"{self._root}{self._names.positions}.weight"
            table = self._table(name, config.context_length, config.hidden_size)
            positions = self._parts.lookup(table, None)
        return Embedding(self._parts.lookup(tokens, scale), positions)

    def _layer(self, prefix: str, layer: LayerConfig) -> Layer:
        config, names = self._config, self._names
        qkv_sizes = (config.q_size, config.kv_size, config.kv_size)
        qkv_names = [prefix + name for name in names.qkv]
        out = self._linear(
            *([prefix + names.out], config.q_size, (config.hidden_size,), config.out_bias),
            adds=names.post_attention_norm is None,
        )
        return Layer(
            attention_norm=self._norm(prefix + names.attention_norm),
            qkv=self._linear(qkv_names, config.hidden_size, qkv_sizes, config.qkv_bias),
            attention=self._head_attention(prefix, layer),
            plan_index=config.windows.index(layer.window),
            out=self._branch(out, prefix, names.post_attention_norm),
            mlp_norm=self._norm(prefix + names.mlp_norm),
            mlp=self._mlp(prefix)
            if layer.experts is None
            else self._mixture(prefix, layer.experts),
        )

    def _head_attention(self, prefix: str, layer: LayerConfig) -> HeadAttention:
        rope_index = None if layer.rope is None else self._config.ropes.index(layer.rope)
        return self._parts.head_attention(layer.window, self._head_norm_weight(prefix), rope_index)

    def _head_norm_weight(self, prefix: str) -> torch.Tensor | None:
        """Return float32 [query and key heads, head_dim], or None where heads have no norms."""
        config = self._config
        if self._names.head_norms is None:
            return None
        query, key = (
            self._tensor(f"{prefix}{name}.weight", config.head_dim).float()
            for name in self._names.head_norms
        )
        offset = 1.0 if config.family.norm == "rms_offset" else 0.0
        weights = (query.expand(config.num_heads, -1), key.expand(config.num_kv_heads, -1))
        return torch.cat(weights) + offset

    def _mlp(self, prefix: str) -> ResidualBranch:
        config, names = self._config, self._names
        hidden, inner = config.hidden_size, config.intermediate_size
        up_names = [prefix + name for name in names.gate_up]
        up_sizes = (inner, inner) if config.family.is_gated else (inner,)
        up = self._linear(up_names, hidden, up_sizes, config.mlp_bias)
        down = self._linear(
            *([prefix + names.down], inner, (hidden,), config.mlp_bias),
            adds=names.post_mlp_norm is None,
        )
        branch = self._branch(down, prefix, names.post_mlp_norm)
        return MLP(up, branch, self._activation)

    def _mixture(self, prefix: str, experts: ExpertsConfig) -> ResidualBranch:
        names = self._names.experts
        assert names is not None, "experts without names. This is a bug."
        hidden, inner = self._config.hidden_size, experts.intermediate_size
        router = self._matrix(f"{prefix}{names.router}.weight", experts.num_experts, hidden)

        def weights() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            for number in range(experts.num_experts):
                up_names = [prefix + name.format(number) for name in names.gate_up]
                down_names = [prefix + names.down.format(number)]
                up = self._expert(up_names, hidden, (inner, inner))
                yield up, self._expert(down_names, inner, (hidden,))

        return self._parts.mixture(experts, router, weights())

    def _branch(self, linear: Linear, prefix: str, norm_name: str | None) -> ResidualBranch:
        return linear if norm_name is None else NormedLinear(linear, self._norm(prefix + norm_name))

    def _norm(self, name: str) -> Norm:
        hidden, eps = self._config.hidden_size, self._config.norm_eps
        weight = self._tensor(f"{name}.weight", hidden)
        if self._config.family.norm == "layer":
            return LayerNorm(weight, self._tensor(f"{name}.bias", hidden), eps)
        # Gemma's weights are distances from 1; near zero they keep their digits
        is_offset = self._config.family.norm == "rms_offset"
        return self._parts.rms_norm(1.0 + weight.float() if is_offset else weight)

    def _linear(
        self,
        names: Sequence[str],
        in_size: int,
        out_sizes: Sequence[int],
        has_bias: bool,
        adds: bool = False,
    ) -> Linear:
        """Return one product for projections of the same input, however the file stacks them."""
        if len(names) == 1:
            out_sizes = (sum(out_sizes),)
        bias = None
        if has_bias:
            sizes = zip(names, out_sizes, strict=True)
            bias = torch.cat([self._tensor(f"{name}.bias", rows) for name, rows in sizes])
        weight = self._stacked(names, in_size, out_sizes)
        if isinstance(weight, PackedWeight):
            return self._parts.packed_linear(weight, bias, adds)
        if isinstance(weight, torch.Tensor):
            return self._parts.linear(weight, bias, adds)
        return self._parts.grouped_linear(weight, bias, adds)

    def _expert(self, names: Sequence[str], in_size: int, out_sizes: Sequence[int]) -> torch.Tensor:
        weight = self._stacked(names, in_size, out_sizes)
        if isinstance(weight, torch.Tensor):
            return weight
        dtype = self._parts.weight_dtype
        if isinstance(weight, PackedWeight):
            return weight.dequantized(dtype)
        return torch.cat([each.dequantized(dtype) for each in weight])

    def _stacked(
        self, names: Sequence[str], in_size: int, out_sizes: Sequence[int]
    ) -> torch.Tensor | PackedWeight | list[GroupedWeight]:
        """Return the matrices of one input as one, [sum of `out_sizes`, `in_size`].

        Those in groups, each of its own kind, are left apart.
        """
        weight_format = self._config.weight_format
        if weight_format is not None and f"{names[0]}.qweight" in self._weights:
            packed = read_packed(self._weights, weight_format, names, in_size, out_sizes)
            return packed.to(self._parts.device)
        shapes = [
            (f"{name}.weight", rows, in_size) for name, rows in zip(names, out_sizes, strict=True)
        ]
        grouped = [part for shape in shapes if (part := self._weights.grouped(*shape)) is not None]
        if len(grouped) == len(shapes):
            return grouped
        return torch.cat([self._matrix(*shape) for shape in shapes])

    def _matrix(self, name: str, rows: int, columns: int) -> torch.Tensor:
        if self._config.family.is_transposed:
            return self._table(name, columns, rows).t()
        return self._table(name, rows, columns)

    def _rows(self, name: str, *shape: int) -> torch.Tensor | GroupedWeight:
        """Return a table of rows as the file has it: an embedding, which may also be the head."""
        grouped = self._weights.grouped(name, *shape)
        return self._table(name, *shape) if grouped is None else grouped

    def _table(self, name: str, *shape: int) -> torch.Tensor:
        tensor = self._weights.tensor(name, *shape)
        return tensor.to(self._parts.device, self._parts.weight_dtype)

    def _tensor(self, name: str, *shape: int) -> torch.Tensor:
        tensor = self._weights.tensor(name, *shape)
        return tensor.to(self._parts.device, self._dtype)
