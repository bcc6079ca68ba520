"""How fast the queue empties, measured while it has something to empty."""

from __future__ import annotations

_HALF_LIFE_S = 10.0
_UNKNOWN_WAIT_S = 1.0
_MAX_WAIT_S = 600.0


class DrainRate:
    """Tokens per second, exponentially weighted over time with a half-life of ten seconds."""

    def __init__(self) -> None:
        self._num_tokens = 0.0
        self._elapsed_s = 0.0

    def observe(self, num_tokens: int, elapsed_s: float) -> None:
        """Count prompt tokens that left a queue which had others in it for so long."""
        kept = 0.5 ** (elapsed_s / _HALF_LIFE_S)
        self._num_tokens = self._num_tokens * kept + num_tokens
        self._elapsed_s = self._elapsed_s * kept + elapsed_s

    @property
    def tokens_per_s(self) -> float:
        """0 while nothing is known."""
        return self._num_tokens / self._elapsed_s if self._elapsed_s > 0.0 else 0.0

    def expected_wait_s(self, num_tokens: int) -> float:
        """Return how long so many tokens take to leave: 1 s if nothing is known, 600 s at most."""
        if self._elapsed_s == 0.0:
            return _UNKNOWN_WAIT_S
        return num_tokens / max(self.tokens_per_s, num_tokens / _MAX_WAIT_S, 1e-9)

    def __repr__(self) -> str:
        return f"DrainRate({self.tokens_per_s:.1f} tokens/s)"
