"""Odd entries and tensors: whatever a file says, it is read or refused in words."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.gguf import TENSOR_TYPES, GGUFFile, Tensor
from services.generator.model.checkpoint.gguf.gguf_config import model_config
from services.generator.model.checkpoint.gguf.weights import GGUFWeights
from services.generator.model.errors import ModelError
from tests.generator.model.checkpoint.gguf.files import EXPERTS, SIZES

ARCHITECTURES = ("llama", "qwen2", "qwen3", "qwen3moe", "gemma2", "gemma3", "phi3", "gpt2")
NAMES = (
    *SIZES, *EXPERTS, "attention.key_length", "attention.value_length", "vocab_size",
    "attention.sliding_window", "attention.sliding_window_pattern", "attn_logit_softcapping",
    "final_logit_softcapping", "rope.dimension_count", "rope.scaling.type", "rope.scaling.factor",
    "rope.scaling.original_context_length", "rope.scaling.attn_factor", "rope.freq_base_swa",
    "rope.scaling.yarn_beta_fast", "attention.scale", "attention.causal", "expert_weights_norm",
)  # fmt: skip
NUMBERS = st.integers(-2, 2**64 - 1) | st.integers(0, 8) | st.floats() | st.booleans()
VALUES = NUMBERS | st.sampled_from(["", "yarn", "longrope", "linear"]) | st.lists(NUMBERS)
STEMS = ("token_embd", "output", "blk.0.attn_q", "blk.1.ffn_up_exps", "rope_freqs", "x")
SHAPES = st.lists(st.sampled_from([0, 1, 8, 64, 89]), min_size=0, max_size=4).map(tuple)


@st.composite
def tensors(draw: Any) -> dict[str, Tensor]:
    """Draw tensors of random shapes and types, with as many bytes as those need."""
    drawn = {}
    for stem in draw(st.sets(st.sampled_from(STEMS))):
        kind, shape = draw(st.sampled_from(list(TENSOR_TYPES.values()))), draw(SHAPES)
        if (shape[-1] if shape else 1) % kind.block_size == 0:
            size = int(np.prod(shape, dtype=int)) // kind.block_size * kind.block_bytes
            suffix = draw(st.sampled_from([".weight", ".bias"]))
            drawn[stem + suffix] = Tensor(kind, shape, memoryview(bytes(size)))
    return drawn


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@settings(max_examples=200, deadline=None)
@given(
    entries=st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=3),
    ends=st.none() | NUMBERS,
    tensors=tensors(),
)
def test_a_file_is_read_or_refused(
    architecture: str, entries: dict[str, Any], ends: Any, tensors: dict[str, Tensor]
) -> None:
    """No value of any type breaks the reader, and a refusal names an entry."""
    values = SIZES | {"attention.layer_norm_epsilon": 1e-5} | entries
    if architecture == "qwen3moe":
        values = EXPERTS | values
    metadata = {f"{architecture}.{name}": value for name, value in values.items()}
    metadata |= {"general.architecture": architecture, "tokenizer.ggml.tokens": ["a"] * 89}
    metadata |= {} if ends is None else {"tokenizer.ggml.eos_token_id": ends}
    embedding = Tensor(TENSOR_TYPES[0], (89, 64), memoryview(bytes(89 * 64 * 4)))
    file = GGUFFile(metadata, {"token_embd.weight": embedding} | tensors)
    try:
        config, weights = model_config(file), GGUFWeights(file)
        for name in tensors:
            # rows are put in order by heads: the loader asks for as many as there are
            is_query = name == "blk.0.attn_q.weight"
            shape = (config.q_size, config.hidden_size) if is_query else tensors[name].shape
            weights.tensor(name, *shape)
    except ModelError as error:
        assert error.field
        assert str(error)
