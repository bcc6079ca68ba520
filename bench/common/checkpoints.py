"""Random-weight checkpoints in Hugging Face form: real shapes, no download, no meaning.

Owns the shapes that the benches time. A random model costs exactly what a trained one does.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

SMOLLM_135M: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.02,
    "torch_dtype": "bfloat16",
}
"""The shape of HuggingFaceTB/SmolLM-135M (134,515,008 parameters)."""

QWEN3_0_6B: Mapping[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "rope_scaling": None,
    "hidden_act": "silu",
    "attention_bias": False,
    "use_sliding_window": False,
    "tie_word_embeddings": True,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "initializer_range": 0.02,
    "torch_dtype": "bfloat16",
}
"""The shape of Qwen/Qwen3-0.6B (596,049,920 parameters)."""

LLAMA_3_8B: Mapping[str, Any] = {
    **SMOLLM_135M,
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 8192,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
}
"""The shape of meta-llama/Meta-Llama-3-8B (8,030,261,248 parameters)."""

TINY: Mapping[str, Any] = {
    **SMOLLM_135M,
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
}
"""A Llama of a few kilobytes, to see that everything works."""


def write_checkpoint(folder: Path, config: Mapping[str, Any], seed: int = 0) -> Path:
    """Write `config.json` and `model.safetensors` with seeded normal weights; return `folder`.

    The weights take the dtype that the configuration names; norms are ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(config), indent=2) + "\n")
    generator = torch.Generator().manual_seed(seed)
    dtype = getattr(torch, str(config.get("dtype") or config["torch_dtype"]))
    weights = {
        name: _draw(name, shape, float(config["initializer_range"]), generator).to(dtype)
        for name, shape in parameter_shapes(config).items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def parameter_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return each parameter's Hugging Face name and shape ([out, in] for the matrices).

    For Llama's family and Qwen 3, which has norms of query and key besides.
    """
    hidden, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    head_dim = int(config.get("head_dim") or hidden // int(config["num_attention_heads"]))
    q_size = int(config["num_attention_heads"]) * head_dim
    kv_size = int(config["num_key_value_heads"]) * head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (int(config["vocab_size"]), hidden),
        "model.norm.weight": (hidden,),
    }
    for index in range(int(config["num_hidden_layers"])):
        layer = f"model.layers.{index}"
        shapes |= {
            f"{layer}.input_layernorm.weight": (hidden,),
            f"{layer}.self_attn.q_proj.weight": (q_size, hidden),
            f"{layer}.self_attn.k_proj.weight": (kv_size, hidden),
            f"{layer}.self_attn.v_proj.weight": (kv_size, hidden),
            f"{layer}.self_attn.o_proj.weight": (hidden, q_size),
            f"{layer}.post_attention_layernorm.weight": (hidden,),
            f"{layer}.mlp.gate_proj.weight": (inner, hidden),
            f"{layer}.mlp.up_proj.weight": (inner, hidden),
            f"{layer}.mlp.down_proj.weight": (hidden, inner),
        }
        if config.get("model_type") == "qwen3":
            shapes |= {f"{layer}.self_attn.{part}_norm.weight": (head_dim,) for part in "qk"}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (int(config["vocab_size"]), hidden)
    return shapes


def num_linear_weights(config: Mapping[str, Any]) -> int:
    """Return the weights of all matrices that one decode step multiplies with, the head's too."""
    head = int(config["vocab_size"]) * int(config["hidden_size"])
    return head + sum(
        math.prod(shape)
        for name, shape in parameter_shapes(config).items()
        if name.endswith("proj.weight")
    )


def _draw(
    name: str, shape: tuple[int, ...], scale: float, generator: torch.Generator
) -> torch.Tensor:
    if name.endswith("norm.weight"):
        return torch.ones(shape)
    return torch.randn(shape, generator=generator) * scale
