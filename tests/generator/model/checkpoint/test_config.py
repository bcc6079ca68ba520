"""Configurations: both forms, defaults, and refusals that name the field."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3MoeConfig,
)

from services.generator.model.checkpoint.config import ModelConfig
from services.generator.model.checkpoint.families import FAMILIES
from services.generator.model.checkpoint.rope_config import RopeConfig
from services.generator.model.errors import ModelConfigError

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
    [rope] = parse(rope_scaling=LLAMA3).ropes
    assert rope == RopeConfig(
        16, 20000.0, "llama3", 32.0, original_context_length=8192,
        low_freq_factor=1.0, high_freq_factor=4.0,
    )  # fmt: skip


def test_transformers_own_file_is_read(tmp_path: Path) -> None:
    """What this transformers writes has the values that it was given."""
    LlamaConfig(
        architectures=["LlamaForCausalLM"], vocab_size=77, num_key_value_heads=4, head_dim=24,
        rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 300.0},
    ).save_pretrained(tmp_path)  # fmt: skip
    config = ModelConfig.read(tmp_path)
    assert (config.vocab_size, config.num_kv_heads, config.head_dim) == (77, 4, 24)
    assert config.ropes == (RopeConfig(24, 300.0, "linear", 2.0),)


def test_optional_fields_have_transformers_defaults() -> None:
    """Heads without groups, a head dimension by division, no biases, float32."""
    optional = ("num_key_value_heads", "rms_norm_eps", "rope_theta", "torch_dtype", "eos_token_id")
    raw = {key: value for key, value in OLD.items() if key not in optional}
    config = ModelConfig.parse(raw, None)
    assert (config.num_kv_heads, config.head_dim) == (4, 16)
    assert (config.norm_eps, config.ropes[0].theta, config.dtype) == (1e-6, 10000.0, "float32")
    assert config.eos_token_ids == ()
    assert not config.qkv_bias and not config.out_bias and not config.mlp_bias
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
        ({"architectures": ["BertModel"]}, "architectures"),
        ({"architectures": None}, "architectures"),
        ({"hidden_act": "relu6"}, "hidden_act"),
        ({"quantization_config": {"bits": 4}}, "quantization_config.quant_method"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"vocab_size": "100"}, "vocab_size"),
        ({"head_dim": 15}, "head_dim"),
        ({"torch_dtype": "int8"}, "dtype"),
        ({"rope_scaling": {"rope_type": "mrope"}}, "rope_scaling.rope_type"),
        ({"rope_scaling": {"type": "longrope"}}, "rope_scaling.short_factor"),
        ({"partial_rotary_factor": 0.2}, "head_dim"),
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


def test_an_unsupported_architecture_lists_the_supported_ones() -> None:
    """The error is a catalogue."""
    with pytest.raises(ModelConfigError) as caught:
        parse(architectures=["BertModel"])
    assert all(name in caught.value.message for name in FAMILIES)


def family(architecture: str, **changes: Any) -> ModelConfig:
    """Parse the fields of a Llama as another family's, five layers deep."""
    return parse(**{"architectures": [architecture], "num_hidden_layers": 5, **changes})


SLIDING = ["sliding_attention", "full_attention"]
QWEN = {"use_sliding_window": True, "max_window_layers": 3, "sliding_window": 8}


@pytest.mark.parametrize(
    ("architecture", "changes", "expected"),
    [
        ("LlamaForCausalLM", {"sliding_window": 8}, [None] * 5),
        ("MistralForCausalLM", {}, [4096] * 5),
        ("MistralForCausalLM", {"sliding_window": 8}, [8] * 5),
        ("MistralForCausalLM", {"sliding_window": None}, [None] * 5),
        ("Qwen2ForCausalLM", {"sliding_window": 8}, [None] * 5),
        ("Qwen2ForCausalLM", QWEN, [None, None, None, 8, 8]),
        ("Qwen3ForCausalLM", {**QWEN, "layer_types": SLIDING[::-1] + SLIDING[:1] * 3},
         [None, 8, 8, 8, 8]),
        ("Gemma2ForCausalLM", {"sliding_window": 8}, [8, None, 8, None, 8]),
        ("Gemma3ForCausalLM", {"sliding_window": 8, "sliding_window_pattern": 3},
         [8, 8, None, 8, 8]),
        ("Gemma3ForCausalLM", {"sliding_window": 8, "layer_types": SLIDING * 2 + SLIDING[1:]},
         [8, None, 8, None, None]),
        ("Phi3ForCausalLM", {"sliding_window": 8}, [8] * 5),
    ],
)  # fmt: skip
def test_windows(architecture: str, changes: dict[str, Any], expected: list[int | None]) -> None:
    """Each way of saying which layers see only part of the context."""
    assert [layer.window for layer in family(architecture, **changes).layers] == expected


def test_two_rotary_bases_in_both_forms() -> None:
    """Gemma 3's windowed layers have a base of their own, and no scaling."""
    linear = {"rope_type": "linear", "factor": 8.0}
    old = family(
        "Gemma3ForCausalLM", rope_theta=1e6, rope_local_base_freq=1e4, rope_scaling=linear,
        sliding_window_pattern=5,
    )  # fmt: skip
    new = family(
        "Gemma3ForCausalLM",
        rope_theta=None,
        rope_parameters={
            "full_attention": linear | {"rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
        layer_types=SLIDING[:1] * 4 + SLIDING[1:],
    )
    assert old == new
    assert old.ropes == (RopeConfig(256, 1e4), RopeConfig(256, 1e6, "linear", 8.0))


def test_partial_rotation_and_long_context() -> None:
    """Phi's fields: a part of each head turns, by divisors for the context that is served."""
    scaling = {"type": "longrope", "short_factor": [1.0] * 6, "long_factor": [2.0] * 6}
    changes = {"partial_rotary_factor": 0.75, "rope_scaling": scaling}
    [short] = family("Phi3ForCausalLM", **changes, original_max_position_embeddings=128).ropes
    [long] = family("Phi3ForCausalLM", **changes, original_max_position_embeddings=64).ropes
    assert (short.dim, short.divisors, short.attention_factor) == (12, (1.0,) * 6, 1.0)
    assert long.divisors == (2.0,) * 6
    assert long.attention_factor == pytest.approx((1 + 1 / 6) ** 0.5)


def test_gpt2_has_words_of_its_own() -> None:
    """Errors name a field as the file does."""
    raw: dict[str, Any] = {
        "architectures": ["GPT2LMHeadModel"], "vocab_size": 50, "n_embd": 32, "n_layer": 2,
        "n_head": 4, "n_positions": 64,
    }  # fmt: skip
    config = ModelConfig.parse(raw, None)
    assert (config.hidden_size, config.intermediate_size, config.num_layers) == (32, 128, 2)
    assert (config.norm_eps, config.activation, config.ropes) == (1e-5, "gelu_tanh", ())
    assert config.tie_word_embeddings
    with pytest.raises(ModelConfigError, match="n_embd: is missing"):
        ModelConfig.parse({key: raw[key] for key in raw if key != "n_embd"}, None)
    with pytest.raises(ModelConfigError, match="scale_attn_by_inverse_layer_idx"):
        ModelConfig.parse({**raw, "scale_attn_by_inverse_layer_idx": True}, None)


def test_which_layers_have_experts() -> None:
    """Qwen's dense layers are listed, or every so many; both spellings of the count are read."""
    changes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
    config = family("Qwen3MoeForCausalLM", **changes, decoder_sparse_step=2, mlp_only_layers=[3])
    assert [layer.experts is not None for layer in config.layers] == [False, True] + [False] * 3
    mixtral = family("MixtralForCausalLM", num_local_experts=4).layers[0].experts
    assert mixtral is not None
    assert (mixtral.num_experts, mixtral.num_chosen, mixtral.intermediate_size) == (4, 2, 96)
    assert mixtral.normalizes


@pytest.mark.parametrize(
    "kind",
    [
        Gemma2Config,
        Gemma3TextConfig,
        MistralConfig,
        Phi3Config,
        Qwen2Config,
        Qwen3MoeConfig,
    ],
)
def test_defaults_are_those_of_transformers(kind: Any, tmp_path: Path) -> None:
    """A file that leaves out what transformers assumes reads like the file that spells it out."""
    names = {family.architectures[0] for family in FAMILIES.values()}
    stem = kind.__name__.removesuffix("Config").removesuffix("Text")
    [architecture] = [name for name in names if name == f"{stem}ForCausalLM"]
    needed = {"num_attention_heads": 8, "num_key_value_heads": 4, "num_hidden_layers": 31}
    kind(architectures=[architecture], **needed).save_pretrained(tmp_path)
    full = json.loads((tmp_path / "config.json").read_text())
    shape = (
        "architectures", "vocab_size", "hidden_size", "intermediate_size", "eos_token_id",
        "max_position_embeddings", "num_local_experts",
    )  # fmt: skip
    sparse = {key: value for key, value in full.items() if key in shape} | needed
    assert ModelConfig.parse(sparse, None) == ModelConfig.parse(full, None)
