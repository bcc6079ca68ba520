"""Generation config: how a checkpoint wants to be sampled by default, and where it ends."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.generator.model.checkpoint.json_file import read_object
from services.generator.model.errors import ModelConfigError

FILE = "generation_config.json"
# a share or factor of 0 would leave nothing to draw from
_LEAST = 1e-6
_NAMES = {
    "max_new_tokens": "max_tokens",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
}
_BOUNDS: dict[str, tuple[type, float, float]] = {
    "max_new_tokens": (int, 1, 2**31 - 1),
    "temperature": (float, 0, 100),
    "top_k": (int, -1, 2**31 - 1),
    "top_p": (float, _LEAST, 1),
    "min_p": (float, 0, 1),
    "repetition_penalty": (float, _LEAST, 100),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig:
    """What `generation_config.json` says; `max_tokens` and `eos_token_ids` are None if it does not.

    The fields are those that vLLM takes from it. As there, `do_sample` has no say: transformers
    writes false for a file that never meant it, so only `temperature` 0 is greedy.
    """

    max_tokens: int | None = None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    eos_token_ids: tuple[int, ...] | None = None

    @classmethod
    def read(cls, folder: Path) -> "GenerationConfig":
        """Read the file of a checkpoint that may lack it; raises ModelConfigError."""
        return cls.parse(read_object(folder / FILE) or {})

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> "GenerationConfig":
        """Check and translate; raises ModelConfigError naming the first bad field."""
        given = {name: _number(raw, field) for field, name in _NAMES.items()}
        eos_token_ids = _ids(raw.get("eos_token_id"))
        chosen = {name: value for name, value in given.items() if value is not None}
        if "top_k" in chosen:
            chosen["top_k"] = max(0, chosen["top_k"])
        return cls(eos_token_ids=eos_token_ids, **chosen)


def _number(raw: Mapping[str, Any], field: str) -> Any:
    kind, low, high = _BOUNDS[field]
    value = raw.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
        raise _refused(field, f"must be {'an integer' if kind is int else 'a number'}", value)
    if not low <= value <= high:
        raise _refused(field, f"must be within [{low:g}, {high:g}]", value)
    return kind(value)


def _ids(value: Any) -> tuple[int, ...] | None:
    if value is None:
        return None
    ids = value if isinstance(value, list) else [value]
    if not all(type(token_id) is int and token_id >= 0 for token_id in ids):
        raise _refused("eos_token_id", "must be a token id or a list of them", value)
    return tuple(ids)


def _refused(field: str, message: str, value: Any) -> ModelConfigError:
    return ModelConfigError(f"{FILE}: {field}", f"{message}, not {value!r}")
