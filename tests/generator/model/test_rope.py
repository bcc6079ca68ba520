"""Rotary positions against transformers'."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from services.generator.model.rope import rope_frequencies, rotation
from services.generator.model.rope_config import parse_rope

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
    frequencies = rope_frequencies(parse_rope({"rope_parameters": KINDS[kind]}), 64)
    rotation(positions, frequencies, torch.float32).apply_(x.view(5, 2, 2, 32))
    assert torch.allclose(x.view(1, 5, 2, 64).transpose(1, 2), expected, atol=1e-5)
