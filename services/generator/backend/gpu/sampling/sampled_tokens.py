"""What a step chose, in host memory, to be read once the caller has waited for the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from services.generator.backend.gpu.sampling.host_sampling import HostDraws
from services.generator.backend.gpu.sampling.logprobs import DescribedTokens
from services.generator.backend.sampling.beam_candidates import candidates
from services.generator.engine.token_logprobs import Candidate, TokenLogprobs


class DescribedRows(NamedTuple):
    """The rows whose log-probabilities are told."""

    rows: Sequence[int]
    tokens: DescribedTokens


class BeamRows(NamedTuple):
    """The rows of beams, with the ids and log-probabilities [R, n] of what may come next."""

    rows: Sequence[int]
    token_ids: torch.Tensor
    logprobs: torch.Tensor
    counts: Sequence[int]


class Chosen:
    """The results of one launch. They must be read before the third turn after it.

    `drawn` are the tokens on the device, int64 [S], for what is launched next.
    """

    def __init__(
        self,
        drawn: torch.Tensor,
        tokens: torch.Tensor,
        on_host: HostDraws | None,
        described: DescribedRows | None,
        beams: BeamRows | None,
    ) -> None:
        """`tokens`, their copy on the host, has -1 where a row is not finite."""
        self.drawn = drawn
        self._tokens = tokens
        self._on_host = on_host
        self._described = described
        self._beams = beams

    def token_ids(self) -> list[int | None]:
        """Return a token id per row, None where the row is not finite."""
        found = [None if token_id < 0 else token_id for token_id in self._tokens.tolist()]
        if self._on_host is not None:
            for row, token_id in self._on_host.token_ids.items():
                found[row] = token_id
        return found

    def logprobs(self) -> dict[int, TokenLogprobs]:
        """Return the tokens' descriptions by row, for draws that ask; raw logits, before edits.

        What a row that is not finite has instead is of no use.
        """
        found = {} if self._on_host is None else self._on_host.logprobs()
        if self._described is not None:
            rows, tokens = self._described
            token_ids = self._tokens.tolist()
            described = tokens.read([max(token_ids[row], 0) for row in rows])
            found.update(zip(rows, described, strict=True))
        return found

    def candidates(self) -> dict[int, list[Candidate]]:
        """Return the likeliest continuations by row, for draws of beams; see `beam_candidates`."""
        if self._beams is None:
            return {}
        rows, token_ids, logprobs, counts = self._beams
        return dict(zip(rows, candidates(token_ids, logprobs, counts), strict=True))

    def __repr__(self) -> str:
        return f"Chosen({len(self._tokens)} rows)"
