"""Random-weight checkpoints in Hugging Face form: real shapes, no download, no meaning.

Owns the shapes that the benches time. A random model costs exactly what a trained one does.
"""

from __future__ import annotations

import json
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
    """Return each Llama parameter's Hugging Face name and shape ([out, in] for the matrices)."""
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
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (int(config["vocab_size"]), hidden)
    return shapes


def _draw(
    name: str, shape: tuple[int, ...], scale: float, generator: torch.Generator
) -> torch.Tensor:
    if name.endswith("norm.weight"):
        return torch.ones(shape)
    return torch.randn(shape, generator=generator) * scale
