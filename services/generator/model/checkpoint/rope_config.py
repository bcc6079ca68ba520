"""Rotary position settings of a model: base, scaling kind and its numbers. Knows no torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.generator.model.checkpoint.fields import Fields
from services.generator.model.errors import ModelConfigError

_KINDS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")
_OLD_KINDS = {"su": "longrope"}


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """`dim` of each head's dimensions are rotated; the rest matters for some kinds only.

    The cosines and sines are multiplied by `attention_factor`. `divisors` are longrope's, one per
    frequency, for sequences of every length (arXiv:2402.13753).
    """

    dim: int
    theta: float = 10000.0
    kind: str = "default"
    factor: float = 1.0
    attention_factor: float = 1.0
    original_context_length: int = 8192
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncates: bool = True
    divisors: tuple[float, ...] = ()


def parse_rope(fields: Fields, head_dim: int, local_theta: float | None) -> tuple[RopeConfig, ...]:
    """Return the settings of global layers and of windowed ones, which often are the same.

    Reads `rope_parameters` (transformers 5), flat or by kind of layer, or `rope_theta` with
    `rope_scaling` (before). Raises ModelConfigError for an unknown kind or a missing number.
    """
    section = "rope_parameters" if fields.get("rope_parameters") else "rope_scaling"
    scaling: Mapping[str, Any] = fields.get(section, {})
    whole = _Section(fields, section, scaling)
    theta = whole.number("rope_theta", fields.number("rope_theta", 10000.0))
    if "full_attention" in scaling or "sliding_attention" in scaling:
        parts = [
            _Section(fields, f"{section}.{kind}", scaling.get(kind) or {})
            for kind in ("full_attention", "sliding_attention")
        ]
        return parts[0].parse(head_dim, theta), parts[1].parse(head_dim, local_theta or theta)
    if local_theta is None:
        return (whole.parse(head_dim, theta),) * 2
    local_theta = fields.number("rope_local_base_freq", local_theta)
    return whole.parse(head_dim, theta), _Section(fields, section, {}).parse(head_dim, local_theta)


class _Section:
    """One set of rotary numbers in the file."""

    def __init__(self, fields: Fields, name: str, values: Mapping[str, Any]) -> None:
        self._fields = fields
        self._name = name
        self._values = values

    def parse(self, head_dim: int, theta: float) -> RopeConfig:
        """Return the settings; `theta` counts where the section has none."""
        kind = str(self._values.get("rope_type") or self._values.get("type") or "default")
        kind = _OLD_KINDS.get(kind, kind)
        if kind not in _KINDS:
            known = ", ".join(_KINDS)
            raise ModelConfigError(f"{self._name}.rope_type", f"{kind} is not one of: {known}")
        fraction = self.number(
            "partial_rotary_factor", self._fields.number("partial_rotary_factor", 1.0)
        )
        dim = int(head_dim * fraction)
        if dim % 2 or not 0 < dim <= head_dim:
            raise ModelConfigError("head_dim", f"must rotate an even part of it, not {dim}")
        theta = self.number("rope_theta", theta)
        # Dynamic scaling begins beyond max_position_embeddings, where requests end.
        if kind in ("default", "dynamic"):
            return RopeConfig(dim, theta)
        if kind == "linear":
            return RopeConfig(dim, theta, kind, self.number("factor"))
        if kind == "llama3":
            return RopeConfig(
                dim,
                theta,
                kind,
                self.number("factor"),
                original_context_length=self._original_length(),
                low_freq_factor=self.number("low_freq_factor"),
                high_freq_factor=self.number("high_freq_factor"),
            )
        return (self._yarn if kind == "yarn" else self._longrope)(dim, theta)

    def _yarn(self, dim: int, theta: float) -> RopeConfig:
        factor = self._stretch()
        mscale, all_dim = self.number("mscale", 0.0), self.number("mscale_all_dim", 0.0)
        attention_factor = _yarn_temperature(factor, 1.0)
        if mscale and all_dim:
            attention_factor = _yarn_temperature(factor, mscale)
            attention_factor /= _yarn_temperature(factor, all_dim)
        return RopeConfig(
            dim,
            theta,
            "yarn",
            factor,
            self.number("attention_factor", attention_factor),
            self._original_length(),
            beta_fast=self.number("beta_fast", 32.0),
            beta_slow=self.number("beta_slow", 1.0),
            truncates=bool(self._values.get("truncate", True)),
        )

    def _longrope(self, dim: int, theta: float) -> RopeConfig:
        """Take the long divisors if more than the original context is served, else the short ones.

        As in vLLM, the set does not depend on a sequence's length. transformers changes to the long
        set when a sequence outgrows the original context, and leaves the keys that it cached before
        as they were; so the two agree where nothing longer is served, and on long prompts.
        """
        original = self._original_length()
        served = self._fields.positive("max_position_embeddings")
        stretch = self._stretch()
        attention_factor = 1.0
        if stretch > 1.0:
            attention_factor = math.sqrt(1 + math.log(stretch) / math.log(original))
        length = "long" if served > original else "short"
        attention_factor = self.number(f"{length}_mscale", attention_factor)
        field = f"{length}_factor"
        divisors = self._values.get(field)
        if not isinstance(divisors, list) or len(divisors) != dim // 2:
            raise ModelConfigError(f"{self._name}.{field}", f"must be a list of {dim // 2} numbers")
        return RopeConfig(
            dim,
            theta,
            "longrope",
            attention_factor=self.number("attention_factor", attention_factor),
            divisors=tuple(float(divisor) for divisor in divisors),
        )

    def _original_length(self) -> int:
        """Return the original context length: a field of its own (Phi-3) beats the section's."""
        inner = self.number(
            "original_max_position_embeddings", self._fields.positive("max_position_embeddings")
        )
        return self._fields.positive("original_max_position_embeddings", int(inner))

    def _stretch(self) -> float:
        served = self._fields.positive("max_position_embeddings")
        return self.number("factor", served / self._original_length())

    def number(self, field: str, default: float | None = None) -> float:
        """Return a number, or `default` where it is absent or null; raises ModelConfigError."""
        value = self._values.get(field)
        if value is None:
            value = default
        if not isinstance(value, int | float):
            raise ModelConfigError(f"{self._name}.{field}", "is missing or not a number")
        return float(value)


def _yarn_temperature(factor: float, weight: float) -> float:
    """Return YaRN's correction of the attention for a context `factor` times as long."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1.0 else 1.0
