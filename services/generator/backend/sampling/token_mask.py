"""Token mask and bias of one request, which follow from its options alone, as tensors."""

import torch

from services.generator.engine.sampling_params import SamplingParams


class TokenMask:
    """Token ids int64 [n] in host memory; `bias` float32 has one for each of `biased`.

    `allowed` empty allows all.
    """

    def __init__(self, params: SamplingParams) -> None:
        self.allowed = torch.tensor(params.allowed_token_ids, dtype=torch.int64)
        self.banned = torch.tensor(params.bad_token_ids, dtype=torch.int64)
        self.biased = torch.tensor([i for i, _ in params.logit_bias], dtype=torch.int64)
        self.bias = torch.tensor([bias for _, bias in params.logit_bias])

    def apply_(self, logits: torch.Tensor) -> None:
        """Bias one row [vocab], then ban in it what is not allowed and what is bad."""
        logits[self.biased] += self.bias
        if len(self.allowed):
            kept = logits[self.allowed]
            logits.fill_(float("-inf"))
            logits[self.allowed] = kept
        logits[self.banned] = float("-inf")
