"""Configurations: both forms, defaults, and refusals that name the field."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from services.generator.model import ModelConfig, ModelConfigError
from services.generator.model.rope_config import RopeConfig

OLD: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 20000.0,
    "rope_scaling": None,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "eos_token_id": 2,
}
LLAMA3: dict[str, Any] = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def parse(**changes: Any) -> ModelConfig:
    return ModelConfig.parse({**OLD, **changes}, eos_token_id=None)


def test_old_and_new_form_read_alike() -> None:
    """rope_theta, rope_scaling and torch_dtype mean what rope_parameters and dtype mean."""
    new = {key: value for key, value in OLD.items() if not key.startswith(("rope", "torch"))}
    new |= {"dtype": "bfloat16", "rope_parameters": LLAMA3 | {"rope_theta": 20000.0}}
    assert ModelConfig.parse(new, None) == parse(rope_scaling=LLAMA3)
    assert parse(rope_scaling=LLAMA3).rope == RopeConfig(20000.0, "llama3", 32.0, 1.0, 4.0, 8192)


def test_transformers_own_file_is_read(tmp_path: Path) -> None:
    """What this transformers writes has the values that it was given."""
    LlamaConfig(
        architectures=["LlamaForCausalLM"], vocab_size=77, num_key_value_heads=4, head_dim=24,
        rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 300.0},
    ).save_pretrained(tmp_path)  # fmt: skip
    config = ModelConfig.read(tmp_path)
    assert (config.vocab_size, config.num_kv_heads, config.head_dim) == (77, 4, 24)
    assert config.rope == RopeConfig(300.0, "linear", 2.0)


def test_optional_fields_have_transformers_defaults() -> None:
    """Heads without groups, a head dimension by division, no biases, float32."""
    optional = ("num_key_value_heads", "rms_norm_eps", "rope_theta", "torch_dtype", "eos_token_id")
    raw = {key: value for key, value in OLD.items() if key not in optional}
    config = ModelConfig.parse(raw, None)
    assert (config.num_kv_heads, config.head_dim) == (4, 16)
    assert (config.rms_norm_eps, config.rope.theta, config.dtype) == (1e-6, 10000.0, "float32")
    assert config.eos_token_ids == ()
    assert not config.attention_bias and not config.mlp_bias
    assert (config.q_size, config.kv_size) == (64, 64)


@pytest.mark.parametrize(
    ("in_config", "in_generation", "expected"),
    [(2, None, (2,)), ([2, 3], None, (2, 3)), (2, [5, 6], (5, 6)), (2, 0, (0,)), (None, None, ())],
)
def test_end_ids(tmp_path: Path, in_config: Any, in_generation: Any, expected: Any) -> None:
    """The generation configuration wins; one id and a list both work."""
    (tmp_path / "config.json").write_text(json.dumps({**OLD, "eos_token_id": in_config}))
    if in_generation is not None:
        text = json.dumps({"eos_token_id": in_generation})
        (tmp_path / "generation_config.json").write_text(text)
    assert ModelConfig.read(tmp_path).eos_token_ids == expected


@pytest.mark.parametrize(
    "field",
    [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
    ],
)
def test_a_missing_field_is_named(field: str) -> None:
    """A shape cannot be guessed."""
    raw = {key: value for key, value in OLD.items() if key != field}
    with pytest.raises(ModelConfigError, match="missing") as caught:
        ModelConfig.parse(raw, None)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "architectures"),
        ({"architectures": None}, "architectures"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"vocab_size": "100"}, "vocab_size"),
        ({"head_dim": 15}, "head_dim"),
        ({"torch_dtype": "int8"}, "dtype"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope_scaling.rope_type"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor"),
        (
            {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}},
            "rope_parameters.low_freq_factor",
        ),
    ],
)
def test_an_unsupported_value_is_named(changes: dict[str, Any], field: str) -> None:
    """What is not implemented is refused instead of computed wrongly."""
    with pytest.raises(ModelConfigError) as caught:
        parse(**changes)
    assert caught.value.field == field


def test_a_folder_without_configuration(tmp_path: Path) -> None:
    """An empty folder and broken JSON are refused by the file's name."""
    with pytest.raises(ModelConfigError, match="not found"):
        ModelConfig.read(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelConfigError, match="valid JSON"):
        ModelConfig.read(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ModelConfigError, match="one JSON object"):
        ModelConfig.read(tmp_path)
