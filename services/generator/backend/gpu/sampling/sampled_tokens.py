"""Sampled tokens of a step, copied to host memory and read once the caller has waited for them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from services.generator.backend.gpu.sampling.host_sampling import HostSampling
from services.generator.backend.gpu.sampling.logprobs import LogprobsReader
from services.generator.backend.sampling.beam_candidates import candidates
from services.generator.engine.results import Choices
from services.generator.engine.token_logprobs import Candidate, TokenLogprobs


class LogprobsRows(NamedTuple):
    """The rows whose log-probabilities are asked for, and what reads them."""

    rows: Sequence[int]
    reader: LogprobsReader


class BeamRows(NamedTuple):
    """The rows of beams, with the ids and log-probabilities [R, n] of what may come next."""

    rows: Sequence[int]
    token_ids: torch.Tensor
    logprobs: torch.Tensor
    counts: Sequence[int]


class SampledTokens:
    """The results of one launch. They must be read before the third turn after it.

    `on_device` are the tokens, int64 [S], for what is launched next.
    """

    def __init__(
        self,
        on_device: torch.Tensor,
        tokens: torch.Tensor,
        host_sampling: HostSampling | None,
        logprobs: LogprobsRows | None,
        beams: BeamRows | None,
    ) -> None:
        """`tokens`, their copy on the host, has -1 where a row is not finite."""
        self.on_device = on_device
        self._tokens = tokens
        self._host_sampling = host_sampling
        self._logprobs = logprobs
        self._beams = beams

    def choices(self) -> Choices:
        """Return the tokens, and by row the log-probabilities and candidates that are asked for.

        Log-probabilities are those of raw logits; those of a row that is not finite are of no use.
        """
        tokens = self._tokens.tolist()
        return Choices(self._token_ids(tokens), self._logprobs_by_row(tokens), self._candidates())

    def _token_ids(self, tokens: Sequence[int]) -> list[int | None]:
        token_ids = [None if token_id < 0 else token_id for token_id in tokens]
        if self._host_sampling is not None:
            for row, token_id in self._host_sampling.token_ids.items():
                token_ids[row] = token_id
        return token_ids

    def _logprobs_by_row(self, tokens: Sequence[int]) -> dict[int, TokenLogprobs]:
        logprobs = {} if self._host_sampling is None else self._host_sampling.logprobs()
        if self._logprobs is not None:
            rows, reader = self._logprobs
            described = reader.read([max(tokens[row], 0) for row in rows])
            logprobs.update(zip(rows, described, strict=True))
        return logprobs

    def _candidates(self) -> dict[int, list[Candidate]]:
        if self._beams is None:
            return {}
        rows, token_ids, logprobs, counts = self._beams
        return dict(zip(rows, candidates(token_ids, logprobs, counts), strict=True))

    def __repr__(self) -> str:
        return f"SampledTokens({len(self._tokens)} rows)"
