"""Token sampling of a step on the CPU: logits processors, draws, log-probabilities and beams."""

from collections.abc import Sequence

import torch

from services.generator.backend.sampling.beam_candidates import beam_candidates, num_candidates
from services.generator.backend.sampling.logits_processors import LogitsProcessors
from services.generator.backend.sampling.logprobs import token_logprobs
from services.generator.backend.sampling.sampler import sample
from services.generator.engine.draw import Draw
from services.generator.engine.results import Choices
from services.generator.engine.token_logprobs import Candidate, TokenLogprobs


class TokenSampler:
    """Samples a token per row; what it remembers of a request follows from the request itself."""

    def __init__(self) -> None:
        self._processors = LogitsProcessors()

    def sample(self, logits: torch.Tensor, draws: Sequence[Draw]) -> Choices:
        """Return a token per row of `logits` [S, vocab], which may be changed in place."""
        described = [row for row, draw in enumerate(draws) if draw.params.logprobs is not None]
        # a copy, because the processors change the rows before the token to describe is known
        raw = logits[described] if described else None
        beams = [row for row, draw in enumerate(draws) if draw.request.beams is not None]
        totals = logits[beams].float().logsumexp(dim=1, keepdim=True) if beams else None
        logits = self._processors.apply(logits, draws)
        token_ids = sample(logits, draws)
        logprobs: list[TokenLogprobs] = []
        if raw is not None:
            counts = [draws[row].params.logprobs or 0 for row in described]
            logprobs = token_logprobs(raw, [token_ids[row] or 0 for row in described], counts)
        candidates: list[list[Candidate]] = []
        if totals is not None:
            counts = [num_candidates(draws[row].request) for row in beams]
            candidates = beam_candidates(logits[beams], totals, counts)
        return Choices(
            token_ids,
            dict(zip(described, logprobs, strict=True)),
            dict(zip(beams, candidates, strict=True)),
        )
