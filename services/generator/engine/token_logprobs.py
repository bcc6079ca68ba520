"""How likely the model held one token, and what it would rather have said. Plain values."""

from __future__ import annotations

from typing import NamedTuple


class TokenLogprobs(NamedTuple):
    """Natural logarithms of the model's own probabilities: before edits, temperature and filters.

    `rank` is 1 for the most likely token. The alternatives, best first, may hold the token itself.
    """

    token_id: int
    logprob: float
    rank: int
    top_token_ids: tuple[int, ...] = ()
    top_logprobs: tuple[float, ...] = ()
