"""Configurations of models that need no weights."""

from typing import Any

from services.generator.model.checkpoint.config import ModelConfig

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 9,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "max_position_embeddings": 4096,
}


def shape(**changes: Any) -> ModelConfig:
    """Return a small Llama's configuration with these fields of `config.json` changed."""
    return ModelConfig.parse({**LLAMA, **changes}, None)
