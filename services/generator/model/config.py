"""A Llama-family configuration read from Hugging Face's `config.json`, old form or new.

Knows no torch: the dtype is a name, the rotary scaling a set of numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.generator.model.errors import ModelConfigError
from services.generator.model.rope_config import RopeConfig, parse_rope

_ARCHITECTURES = frozenset({"LlamaForCausalLM"})
_DTYPES = frozenset({"float32", "bfloat16", "float16"})


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The shape of a decoder; sizes are element counts, `context_length` is in tokens."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    context_length: int
    rms_norm_eps: float
    rope: RopeConfig
    tie_word_embeddings: bool
    attention_bias: bool
    mlp_bias: bool
    dtype: str
    eos_token_ids: tuple[int, ...]

    @property
    def q_size(self) -> int:
        """Width of all query heads together."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key heads together, which is also that of the values."""
        return self.num_kv_heads * self.head_dim

    @classmethod
    def read(cls, folder: Path) -> ModelConfig:
        """Read `config.json`, and the end ids from `generation_config.json` if it has them.

        Raises ModelConfigError naming the first missing or unsupported field.
        """
        raw = _read_json(folder / "config.json")
        if raw is None:
            raise ModelConfigError("config.json", f"not found in {folder}")
        generation = _read_json(folder / "generation_config.json") or {}
        return cls.parse(raw, eos_token_id=generation.get("eos_token_id"))

    @classmethod
    def parse(cls, raw: Mapping[str, Any], eos_token_id: int | list[int] | None) -> ModelConfig:
        """Check and translate; `eos_token_id` wins over the one inside `raw`."""
        _refuse_unsupported(raw)
        num_heads = _positive(raw, "num_attention_heads")
        num_kv_heads = _positive(raw, "num_key_value_heads", num_heads)
        if num_heads % num_kv_heads:
            raise ModelConfigError("num_key_value_heads", f"must divide {num_heads} heads")
        hidden_size = _positive(raw, "hidden_size")
        head_dim = _positive(raw, "head_dim", hidden_size // num_heads)
        if head_dim % 2:
            raise ModelConfigError("head_dim", "must be even for rotary positions")
        return cls(
            vocab_size=_positive(raw, "vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=_positive(raw, "intermediate_size"),
            num_layers=_positive(raw, "num_hidden_layers"),
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            context_length=_positive(raw, "max_position_embeddings"),
            rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
            rope=parse_rope(raw),
            tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
            attention_bias=bool(raw.get("attention_bias", False)),
            mlp_bias=bool(raw.get("mlp_bias", False)),
            dtype=_dtype(raw),
            eos_token_ids=_ids(raw.get("eos_token_id") if eos_token_id is None else eos_token_id),
        )


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ModelConfigError(path.name, f"is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelConfigError(path.name, "must hold one JSON object")
    return content


def _refuse_unsupported(raw: Mapping[str, Any]) -> None:
    architectures = raw.get("architectures") or ["(none)"]
    if not _ARCHITECTURES.intersection(architectures):
        known = ", ".join(sorted(_ARCHITECTURES))
        raise ModelConfigError("architectures", f"{architectures[0]} is not one of: {known}")
    if (activation := raw.get("hidden_act", "silu")) != "silu":
        raise ModelConfigError("hidden_act", f"{activation} is not supported, only silu")
    if raw.get("quantization_config") is not None:
        raise ModelConfigError("quantization_config", "quantized weights are not supported")


def _positive(raw: Mapping[str, Any], field: str, default: int | None = None) -> int:
    value = raw.get(field)
    if value is None:
        value = default
    if value is None:
        raise ModelConfigError(field, "is missing")
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelConfigError(field, f"must be a positive integer, not {value!r}")
    return value


def _dtype(raw: Mapping[str, Any]) -> str:
    name = str(raw.get("dtype") or raw.get("torch_dtype") or "float32").removeprefix("torch.")
    if name not in _DTYPES:
        raise ModelConfigError("dtype", f"{name} is not one of: {', '.join(sorted(_DTYPES))}")
    return name


def _ids(value: int | list[int] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)
