"""Sampling with typical_p, for which there is no kernel: on the host, after the wait."""

from collections.abc import Mapping
from functools import cached_property

import torch

from services.generator.backend.gpu.transfers import Transfers
from services.generator.backend.sampling.logprobs import token_logprobs
from services.generator.backend.sampling.sampler import sample
from services.generator.engine.draw import Draw
from services.generator.engine.token_logprobs import TokenLogprobs


def samples_on_host(draw: Draw) -> bool:
    """Return whether the draw needs what only the host's sampler has."""
    return draw.params.typical_p < 1.0 and not draw.params.is_greedy


class HostSampling:
    """The rows of these draws, copied to host memory with the step's other results.

    A copy is as long as the vocabulary. Random numbers are those of a CPU. Read it before the
    requests have more tokens.
    """

    def __init__(
        self,
        raw: torch.Tensor,
        processed: torch.Tensor,
        draws: Mapping[int, Draw],
        transfers: Transfers,
    ) -> None:
        """Launch the copies of these rows' logits [S, vocab], before and after the processors."""
        self._draws = draws
        self._described = [row for row, d in draws.items() if d.params.logprobs is not None]
        self._raw = _fetch_rows(raw, self._described, transfers)
        self._processed = _fetch_rows(processed, list(draws), transfers)

    @cached_property
    def token_ids(self) -> dict[int, int | None]:
        """The sampled tokens by row, None where the row is not finite."""
        sampled = sample(self._processed, list(self._draws.values()))
        return dict(zip(self._draws, sampled, strict=True))

    def logprobs(self) -> dict[int, TokenLogprobs]:
        """Return the tokens' log-probabilities by row, for draws that ask."""
        rows = self._described
        if not rows:
            return {}
        token_ids = [self.token_ids[row] or 0 for row in rows]
        counts = [self._draws[row].params.logprobs or 0 for row in rows]
        return dict(zip(rows, token_logprobs(self._raw, token_ids, counts), strict=True))

    def __repr__(self) -> str:
        return f"HostSampling({list(self._draws)})"


def _fetch_rows(logits: torch.Tensor, rows: list[int], transfers: Transfers) -> torch.Tensor:
    """Return rows of the device's logits in host memory, float32 [R, vocab]."""
    fetched = transfers.take(len(rows), logits.shape[1], dtype=torch.float32)
    for line, row in zip(fetched, rows, strict=True):
        # widened on the device, where the copy would have to be waited for to be widened here
        line.copy_(logits[row].float(), non_blocking=True)
    return fetched
