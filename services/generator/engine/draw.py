"""One token to be drawn, and how the tokens drawn after guesses become tokens of the request."""

from __future__ import annotations

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
