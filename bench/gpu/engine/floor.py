"""The least that a decode step has to read, and the time that takes."""

from collections.abc import Mapping
from typing import Any

from bench.common.checkpoints import num_linear_weights

WEIGHT_BYTES = 2
"""Of bfloat16, in which weights and cache are."""


def kv_bytes_per_token(config: Mapping[str, Any], item_bytes: int = WEIGHT_BYTES) -> int:
    """Return what the keys and values of one token take in all layers."""
    heads = int(config["num_attention_heads"])
    head_dim = int(config.get("head_dim") or int(config["hidden_size"]) // heads)
    layers, kv_heads = int(config["num_hidden_layers"]), int(config["num_key_value_heads"])
    return 2 * layers * kv_heads * head_dim * item_bytes


def step_bytes(config: Mapping[str, Any], num_cached_tokens: float) -> float:
    """Return what one decode step must read: every matrix, the head's too, and the contexts.

    Of the embedding table it reads a row per sequence, which is nothing, unless it is the head.
    `num_cached_tokens` is the sum over the sequences.
    """
    weights = num_linear_weights(config) * WEIGHT_BYTES
    return weights + num_cached_tokens * kv_bytes_per_token(config)
