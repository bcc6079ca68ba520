"""Logprobs of a token and its alternatives, and candidates of a beam search. Plain values."""

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


class Candidate(NamedTuple):
    """A token that may come next, and its natural log-probability."""

    token_id: int
    logprob: float
