"""Draws: tokens to be sampled, and which of those sampled after drafts are accepted."""

from collections.abc import Sequence
from typing import NamedTuple

from services.generator.engine.request import Request
from services.generator.engine.sampling_params import SamplingParams


class Draw(NamedTuple):
    """The next output token of `request`, as if `drafts` had been drawn before it.

    `num_unknown` tokens before it are drawn, but not known on the host as yet.
    """

    request: Request
    drafts: tuple[int, ...] = ()
    num_unknown: int = 0

    @property
    def params(self) -> SamplingParams:
        """How the request wants its tokens chosen."""
        return self.request.params

    @property
    def output_index(self) -> int:
        """The place of the drawn token in the output, from 0."""
        return self.request.num_output_tokens + self.num_unknown + len(self.drafts)

    @property
    def holds_back_stops(self) -> bool:
        """Return whether the token comes too early (min_tokens) to end the output."""
        return self.output_index < self.params.min_tokens


def held_back_stops(draws: Sequence[Draw]) -> tuple[list[int], list[int]]:
    """Return the rows and the tokens that must not be drawn before min_tokens, in pairs."""
    rows: list[int] = []
    columns: list[int] = []
    for row, draw in enumerate(draws):
        if draw.holds_back_stops:
            stop_token_ids = draw.request.stop_token_ids
            columns += stop_token_ids
            rows += [row] * len(stop_token_ids)
    return rows, columns


def kept_tokens(drafts: Sequence[int], drawn: Sequence[int | None]) -> tuple[int, ...]:
    """Return the drawn tokens that hold: up to the first one that is not its draft.

    `drawn` has one token more than `drafts`, None where the logits were not finite; nothing from
    there on is kept, so that the request fails on its own when it gets there.
    """
    kept: list[int] = []
    for index, token_id in enumerate(drawn):
        if token_id is None:
            break
        kept.append(token_id)
        if index < len(drafts) and token_id != drafts[index]:
            break
    return tuple(kept)
