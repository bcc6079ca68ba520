"""Log-probabilities of tokens: launched on the device, read when the caller has waited."""

from collections.abc import Sequence

import torch

from services.generator.backend.gpu.transfers import Transfers
from services.generator.backend.gpu.triton.sampling.logprobs import logprobs
from services.generator.engine.sampling_params import MAX_LOGPROBS
from services.generator.engine.token_logprobs import TokenLogprobs

# each width is a kernel of its own to compile
WIDTHS = (0, 5, MAX_LOGPROBS)


class LogprobsReader:
    """Reads the log-probabilities of a token per row, each with the alternatives it asks for."""

    def __init__(
        self,
        logits: torch.Tensor,
        token_ids: torch.Tensor,
        counts: Sequence[int],
        transfers: Transfers,
    ) -> None:
        """Launch for raw `logits` [R, vocab] and `token_ids` int64 [R]; `counts` may differ."""
        most = max(counts, default=0)
        width = min(next(width for width in WIDTHS if width >= most), logits.shape[1])
        self._counts = counts
        self._fetched = [transfers.fetch(t) for t in logprobs(logits, token_ids, width)]

    def read(self, token_ids: Sequence[int]) -> list[TokenLogprobs]:
        """Return the log-probabilities of the tokens, which the caller knows by now."""
        values = (fetched.tolist() for fetched in self._fetched)
        return [
            TokenLogprobs(token_id, logprob, rank, tuple(top_ids[:count]), tuple(top[:count]))
            for token_id, count, logprob, rank, top, top_ids in zip(
                token_ids, self._counts, *values, strict=True
            )
        ]

    def __repr__(self) -> str:
        return f"LogprobsReader({len(self._counts)})"
