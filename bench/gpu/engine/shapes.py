"""Which shapes the engine is measured in, and what of each the gate computes."""

from collections.abc import Mapping
from typing import Any

from bench.common.checkpoints import LLAMA_3_8B, QWEN3_0_6B, TINY

# the kernels' attention takes heads of 64 and more
_TINY = {**TINY, "head_dim": 64}

SHAPES: Mapping[str, Mapping[str, Any]] = {
    "qwen3-0.6b": QWEN3_0_6B,
    "llama-3-8b": LLAMA_3_8B,
    "tiny": _TINY,
}
GATE_SHAPES: Mapping[str, Mapping[str, Any]] = {
    "qwen3-0.6b": {**QWEN3_0_6B, "num_hidden_layers": 4},
    "llama-3-8b": {**LLAMA_3_8B, "num_hidden_layers": 2, "vocab_size": 32768},
    "tiny": _TINY,
}
"""Few layers, because the CPU computes them too."""

DECODE_AIMS: Mapping[tuple[str, int], float] = {("llama-3-8b", 1): 0.60, ("llama-3-8b", 64): 0.50}
"""What share of the floor's rate a batch of a shape should reach."""
