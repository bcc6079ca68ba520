"""How one request wants its tokens chosen and when it wants to stop."""

from __future__ import annotations

import math
from dataclasses import dataclass

from services.generator.engine.errors import ParamError


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Validated on construction; raises ParamError naming the first bad field.

    `temperature` 0 is greedy and makes top_k, top_p and seed irrelevant. Order of the filters:
    temperature, top_k, then top_p over what top_k left. `min_tokens` holds back every stop id.
    `ignore_eos` drops the model's own end ids only; `stop_token_ids` still stop.
    """

    max_tokens: int = 16
    min_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        _require(self.max_tokens >= 1, "max_tokens", "must be at least 1")
        _require(self.min_tokens >= 0, "min_tokens", "must not be negative")
        _require(self.min_tokens <= self.max_tokens, "min_tokens", "must not exceed max_tokens")
        is_warm = math.isfinite(self.temperature) and self.temperature >= 0.0
        _require(is_warm, "temperature", "must be a finite number of at least 0")
        _require(self.top_k >= 0, "top_k", "must not be negative (0 turns it off)")
        _require(0.0 < self.top_p <= 1.0, "top_p", "must be above 0 and at most 1")
        _require(all(i >= 0 for i in self.stop_token_ids), "stop_token_ids", "must not be negative")

    @property
    def is_greedy(self) -> bool:
        """True when the most likely token always wins."""
        return self.temperature == 0.0


def _require(condition: bool, field: str, message: str) -> None:
    if not condition:
        raise ParamError(field, message)
