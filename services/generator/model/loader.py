"""Builds a Llama from a Hugging Face folder: names, stacking, dtype. Knows no arithmetic."""

from __future__ import annotations

from pathlib import Path

import torch

from services.generator.model.checkpoint import Checkpoint
from services.generator.model.config import ModelConfig
from services.generator.model.errors import ModelConfigError
from services.generator.model.linear import Linear
from services.generator.model.llama import LayerWeights, Llama, LlamaWeights

# float16 has no fast path on CPUs and a narrower range than its float32 image, which is exact.
_COMPUTE_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float32,
}


def load_model(folder: Path, dtype: str | None = None) -> Llama:
    """Read a folder with `config.json` and safetensors; `dtype` overrides the checkpoint's.

    Raises ModelConfigError or WeightError, naming the field or tensor at fault.
    """
    config = ModelConfig.read(folder)
    name = dtype or config.dtype
    if name not in _COMPUTE_DTYPES:
        raise ModelConfigError("dtype", f"{name} is not one of: {', '.join(_COMPUTE_DTYPES)}")
    return Llama(config, _Loader(config, Checkpoint(folder), _COMPUTE_DTYPES[name]).weights())


class _Loader:
    def __init__(self, config: ModelConfig, checkpoint: Checkpoint, dtype: torch.dtype) -> None:
        self._config = config
        self._checkpoint = checkpoint
        self._dtype = dtype

    def weights(self) -> LlamaWeights:
        config = self._config
        embedding = self._tensor("model.embed_tokens.weight", config.vocab_size, config.hidden_size)
        head = embedding
        if not config.tie_word_embeddings:
            head = self._tensor("lm_head.weight", config.vocab_size, config.hidden_size)
        return LlamaWeights(
            embedding=embedding,
            layers=[self._layer(f"model.layers.{i}") for i in range(config.num_layers)],
            norm=self._tensor("model.norm.weight", config.hidden_size),
            lm_head=Linear(head),
        )

    def _layer(self, prefix: str) -> LayerWeights:
        config = self._config
        hidden, inner = config.hidden_size, config.intermediate_size
        q_size, kv_size, bias = config.q_size, config.kv_size, config.attention_bias
        attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
        sizes = {f"{attention}.q_proj": q_size} | {
            f"{attention}.{name}_proj": kv_size for name in ("k", "v")
        }
        gate_up = {f"{mlp}.gate_proj": inner, f"{mlp}.up_proj": inner}
        return LayerWeights(
            attention_norm=self._tensor(f"{prefix}.input_layernorm.weight", hidden),
            qkv=self._linear(sizes, hidden, bias),
            out=self._linear({f"{attention}.o_proj": hidden}, q_size, bias),
            mlp_norm=self._tensor(f"{prefix}.post_attention_layernorm.weight", hidden),
            gate_up=self._linear(gate_up, hidden, config.mlp_bias),
            down=self._linear({f"{mlp}.down_proj": hidden}, inner, config.mlp_bias),
        )

    def _linear(self, out_sizes: dict[str, int], in_size: int, has_bias: bool) -> Linear:
        """Stack projections of the same input into one; `out_sizes` maps names to rows."""
        weights = [self._tensor(f"{n}.weight", rows, in_size) for n, rows in out_sizes.items()]
        if not has_bias:
            return Linear(torch.cat(weights))
        biases = [self._tensor(f"{n}.bias", rows) for n, rows in out_sizes.items()]
        return Linear(torch.cat(weights), torch.cat(biases))

    def _tensor(self, name: str, *shape: int) -> torch.Tensor:
        return self._checkpoint.tensor(name, *shape).to(self._dtype)
