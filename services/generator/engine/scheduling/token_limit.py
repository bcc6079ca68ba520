"""How many tokens a step may compute: less after one found too little memory, then more again."""

from __future__ import annotations

# so many good steps let the limit double
_GOOD_STEPS = 256


class TokenLimit:
    """Between `least` and `most` tokens; the memory of a step grows with them."""

    def __init__(self, least: int, most: int) -> None:
        self.num_tokens = most
        self._least = least
        self._most = most
        self._num_good_steps = 0

    def lower(self) -> None:
        """Halve it, after a step for which there was no memory."""
        self.num_tokens = max(self._least, self.num_tokens // 2)
        self._num_good_steps = 0

    def observe_step(self) -> None:
        """Count a step that was computed."""
        if self.num_tokens == self._most:
            return
        self._num_good_steps += 1
        if self._num_good_steps == _GOOD_STEPS:
            self.num_tokens = min(self._most, 2 * self.num_tokens)
            self._num_good_steps = 0

    def __repr__(self) -> str:
        return f"TokenLimit({self.num_tokens} of {self._most})"
