"""Rotary position settings of a model: base, scaling kind and its numbers. Knows no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.generator.model.errors import ModelConfigError

_KINDS = ("default", "linear", "llama3")


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """`kind` is default, linear or llama3; the last three numbers matter for llama3 only."""

    theta: float = 10000.0
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context_length: int = 8192


def parse_rope(raw: Mapping[str, Any]) -> RopeConfig:
    """Read `rope_parameters` (transformers 5), or `rope_theta` with `rope_scaling` (before).

    Raises ModelConfigError for an unknown kind or a missing number.
    """
    section = "rope_parameters" if raw.get("rope_parameters") else "rope_scaling"
    scaling: Mapping[str, Any] = raw.get(section) or {}
    theta = float(scaling.get("rope_theta") or raw.get("rope_theta") or 10000.0)
    kind = str(scaling.get("rope_type") or scaling.get("type") or "default")
    if kind not in _KINDS:
        raise ModelConfigError(f"{section}.rope_type", f"{kind} is not one of: {', '.join(_KINDS)}")
    if kind == "default":
        return RopeConfig(theta)
    factor = _number(scaling, section, "factor")
    if kind == "linear":
        return RopeConfig(theta, kind, factor)
    return RopeConfig(
        theta,
        kind,
        factor,
        _number(scaling, section, "low_freq_factor"),
        _number(scaling, section, "high_freq_factor"),
        int(_number(scaling, section, "original_max_position_embeddings")),
    )


def _number(scaling: Mapping[str, Any], section: str, field: str) -> float:
    value = scaling.get(field)
    if not isinstance(value, int | float):
        raise ModelConfigError(f"{section}.{field}", "is missing or not a number")
    return float(value)
