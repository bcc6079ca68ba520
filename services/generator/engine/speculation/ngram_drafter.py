"""N-gram drafter (prompt lookup): guesses next tokens from what followed the latest before."""

from collections.abc import Sequence
from typing import NamedTuple

SIZES = (4, 3, 2)


class Proposal(NamedTuple):
    """Guessed tokens, and the length of the n-gram that they followed before."""

    token_ids: tuple[int, ...]
    size: int


class NgramDrafter:
    """Remembers for one request where each n-gram of its tokens ended last.

    Prompt lookup decoding (Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding): an answer
    often repeats its prompt or itself. Each token is indexed once, so a proposal costs a few
    look-ups, however long the text is.
    """

    def __init__(self) -> None:
        self._ends: dict[int, dict[tuple[int, ...], int]] = {size: {} for size in SIZES}
        self._num_indexed = 0

    def propose(self, token_ids: Sequence[int], count: int) -> Proposal | None:
        """Return `count` tokens that may come after `token_ids`; None if it ends in nothing known.

        They followed the latest earlier occurrence of the longest n-gram at the end; where the
        text ends before `count`, as if it went on with them. Between calls tokens may only be
        appended.
        """
        self._catch_up(token_ids)
        for size, ends in self._ends.items():
            end = ends.get(tuple(token_ids[-size:]))
            if end is not None:
                followed = tuple(token_ids[end : end + count])
                period = len(followed)
                return Proposal((followed * -(-count // period))[:count], size)
        return None

    def _catch_up(self, token_ids: Sequence[int]) -> None:
        """Index all n-grams but the last ones, which nothing follows yet."""
        last = len(token_ids) - 1
        for size, ends in self._ends.items():
            for end in range(max(size, self._num_indexed + 1), last + 1):
                ends[tuple(token_ids[end - size : end])] = end
        self._num_indexed = max(self._num_indexed, last)

    def __repr__(self) -> str:
        return f"NgramDrafter({self._num_indexed} tokens)"
