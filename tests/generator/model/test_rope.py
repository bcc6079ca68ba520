"""Rotary positions against transformers'."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from services.generator.model.checkpoint.families import FAMILIES
from services.generator.model.checkpoint.fields import Fields
from services.generator.model.checkpoint.rope_config import parse_rope
from services.generator.model.rope import Rope

KINDS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 10000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 3.0},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
    "yarn": {
        "rope_type": "yarn",
        "rope_theta": 1000000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 32768,
    },
    "yarn_mscale": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 40.0,
        "original_max_position_embeddings": 4096,
        "beta_fast": 16,
        "beta_slow": 2,
        "mscale": 0.7,
        "mscale_all_dim": 1.0,
        "truncate": False,
    },
    "longrope": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0 + index / 10 for index in range(32)],
        "long_factor": [2.0 + index for index in range(32)],
        "original_max_position_embeddings": 4096,
    },
    "longrope_short": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "attention_factor": 1.3,
        "short_factor": [1.0 + index / 10 for index in range(32)],
        "long_factor": [2.0 + index for index in range(32)],
        "original_max_position_embeddings": 131072,
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_heads_are_rotated_as_in_transformers(kind: str) -> None:
    """Near and far positions agree, in place, on a slice of a wider row."""
    config = LlamaConfig(
        hidden_size=128, num_attention_heads=2, rope_parameters=KINDS[kind],
        max_position_embeddings=131072,
    )  # fmt: skip
    reference = LlamaRotaryEmbedding(config)
    positions = torch.tensor([0, 1, 77, 5000, 100_000])
    row = torch.randn(5, 2 * 64 + 10)
    x = row[:, : 2 * 64]
    cos, sin = reference(row, positions.unsqueeze(0))
    heads = x.view(1, 5, 2, 64).transpose(1, 2)
    expected, _ = apply_rotary_pos_emb(heads, heads, cos, sin)
    raw = {"rope_parameters": KINDS[kind], "max_position_embeddings": 131072}
    rope, _ = parse_rope(Fields(raw, FAMILIES["LlamaForCausalLM"]), 64, None)
    Rope(rope)(positions).apply_(x.view(5, 2, 2, 32))
    assert torch.allclose(x.view(1, 5, 2, 64).transpose(1, 2), expected, atol=1e-4)
