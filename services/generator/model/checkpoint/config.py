"""A decoder's configuration read from Hugging Face's `config.json`, old form or new.

Knows no torch: the dtype is a name, the rotary scaling a set of numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.generator.model.checkpoint.families import FAMILIES, Family
from services.generator.model.checkpoint.fields import Fields
from services.generator.model.checkpoint.generation_config import GenerationConfig
from services.generator.model.checkpoint.json_file import read_object
from services.generator.model.checkpoint.layer_config import LayerConfig, parse_layers
from services.generator.model.checkpoint.rope_config import RopeConfig
from services.generator.model.checkpoint.weight_format import (
    SECTION,
    WeightFormat,
    parse_weight_format,
)
from services.generator.model.errors import ModelConfigError

_ACTIVATIONS = {
    "silu": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
_DTYPES = frozenset({"float32", "bfloat16", "float16"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A decoder's family and its numbers; sizes are element counts, `context_length` is tokens."""

    family: Family
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    context_length: int
    layers: tuple[LayerConfig, ...]
    norm_eps: float
    activation: str  # silu, gelu or gelu_tanh
    attention_scale: float
    attention_softcap: float | None
    logit_softcap: float | None
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    tie_word_embeddings: bool
    dtype: str
    eos_token_ids: tuple[int, ...]
    weight_format: WeightFormat | None  # of quantised matrices
    is_quantized: bool  # whether matrices have 8 bits or less

    @property
    def num_layers(self) -> int:
        """How many layers keep keys and values."""
        return len(self.layers)

    @property
    def q_size(self) -> int:
        """Width of all query heads together."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key heads together, which is also that of the values."""
        return self.num_kv_heads * self.head_dim

    @property
    def windows(self) -> tuple[int | None, ...]:
        """The windows that its layers have, each once."""
        return tuple(dict.fromkeys(layer.window for layer in self.layers))

    @property
    def ropes(self) -> tuple[RopeConfig, ...]:
        """The rotary settings that its layers have, each once."""
        return tuple(dict.fromkeys(layer.rope for layer in self.layers if layer.rope is not None))

    @classmethod
    def read(cls, folder: Path) -> "ModelConfig":
        """Read `config.json`, and the end ids from `generation_config.json` if it has them.

        Raises ModelConfigError naming the first missing or unsupported field.
        """
        raw = read_object(folder / "config.json")
        if raw is None:
            raise ModelConfigError("config.json", f"not found in {folder}")
        return cls.parse(raw, eos_token_id=GenerationConfig.read(folder).eos_token_ids)

    @classmethod
    def parse(cls, raw: Mapping[str, Any], eos_token_id: Sequence[int] | None) -> "ModelConfig":
        """Check and translate; `eos_token_id` wins over the one inside `raw`."""
        family = _family(raw)
        fields = Fields(raw, family)
        _refuse_unsupported(fields, family)
        num_heads = fields.positive("num_attention_heads")
        num_kv_heads = fields.positive("num_key_value_heads", num_heads)
        if num_heads % num_kv_heads:
            name = fields.name("num_key_value_heads")
            raise ModelConfigError(name, f"must divide {num_heads} heads")
        hidden_size = fields.positive("hidden_size")
        head_dim = fields.positive("head_dim", hidden_size // num_heads)
        ratio = family.mlp_ratio
        weight_format = parse_weight_format(fields.get(SECTION))
        return cls(
            family=family,
            vocab_size=fields.positive("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=fields.positive("intermediate_size", ratio and ratio * hidden_size),
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            context_length=fields.positive("max_position_embeddings"),
            layers=parse_layers(fields, family, head_dim),
            norm_eps=fields.number("rms_norm_eps", 1e-6),
            activation=_activation(fields),
            attention_scale=fields.number("query_pre_attn_scalar", head_dim) ** -0.5,
            attention_softcap=fields.optional_number("attn_logit_softcapping"),
            logit_softcap=fields.optional_number("final_logit_softcapping"),
            qkv_bias=fields.flag(family.qkv_bias),
            out_bias=fields.flag(family.out_bias),
            mlp_bias=fields.flag(family.mlp_bias),
            tie_word_embeddings=fields.flag("tie_word_embeddings"),
            dtype=_dtype(fields),
            eos_token_ids=_ids(
                fields.get("eos_token_id") if eos_token_id is None else eos_token_id
            ),
            weight_format=weight_format,
            is_quantized=weight_format is not None,
        )


def _family(raw: Mapping[str, Any]) -> Family:
    architectures = raw.get("architectures") or ["(none)"]
    known = [FAMILIES[name] for name in architectures if name in FAMILIES]
    if not known:
        supported = ", ".join(sorted(FAMILIES))
        raise ModelConfigError("architectures", f"{architectures[0]} is not one of: {supported}")
    return known[0]


def _refuse_unsupported(fields: Fields, family: Family) -> None:
    for field, value in family.required.items():
        if fields.get(field, value) != value:
            raise ModelConfigError(field, f"{fields.get(field)} is not supported, only {value}")


def _activation(fields: Fields) -> str:
    name = fields.get("hidden_act", "silu")
    if name not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise ModelConfigError(fields.name("hidden_act"), f"{name} is not one of: {known}")
    return _ACTIVATIONS[name]


def _dtype(fields: Fields) -> str:
    name = str(fields.get("dtype", fields.get("torch_dtype", "float32"))).removeprefix("torch.")
    if name not in _DTYPES:
        raise ModelConfigError("dtype", f"{name} is not one of: {', '.join(sorted(_DTYPES))}")
    return name


def _ids(value: int | Sequence[int] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)
