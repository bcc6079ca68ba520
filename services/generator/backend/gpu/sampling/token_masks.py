"""Token masks and bias on the device, for the rows that ask for them.

The same as those of `backend.sampling.logits_processors`.
"""

from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

import torch

from services.generator.backend.gpu.transfers import Transfers
from services.generator.backend.sampling.token_mask import TokenMask
from services.generator.engine.draw import Draw, held_back_stops
from services.generator.engine.request import Request

BANNED = float("-inf")


class TokenMasks:
    """Remembers per live request what its options need, and drops it with the request.

    Bias and bans are sparse and are sent each step. What a request does not allow is a mask of its
    own [vocab], bool, which stays on the device.
    """

    def __init__(self, transfers: Transfers, device: torch.device, vocab_size: int) -> None:
        self._transfers = transfers
        self._device = device
        self._vocab_size = vocab_size
        self._masks: WeakKeyDictionary[Request, TokenMask] = WeakKeyDictionary()
        self._forbidden: WeakKeyDictionary[Request, torch.Tensor] = WeakKeyDictionary()

    def columns(self, draws: Sequence[Draw]) -> dict[str, torch.Tensor]:
        """Return what `apply_` needs of these draws, in host memory; none where it has no work.

        Tokens of rows are indices into the flat logits.
        """
        vocab_size = self._vocab_size
        held_back = [
            row * vocab_size + token_id
            for row, token_id in zip(*held_back_stops(draws), strict=True)
        ]
        banned = [torch.tensor(held_back, dtype=torch.int64)]
        biased, bias = [], []
        restricted: list[int] = []
        for row, draw in enumerate(draws):
            if draw.params.masks_tokens:
                mask = self._mask_of(draw.request)
                banned.append(mask.banned + row * vocab_size)
                biased.append(mask.biased + row * vocab_size)
                bias.append(mask.bias)
                restricted += [row] * bool(len(mask.allowed))
        columns = {}
        if held_back or biased:
            columns["banned"] = torch.cat(banned)
        if biased:
            columns["biased"], columns["bias"] = torch.cat(biased), torch.cat(bias)
        if restricted:
            columns["restricted"] = torch.tensor(restricted)
        return columns

    def apply_(
        self, logits: torch.Tensor, draws: Sequence[Draw], sent: Mapping[str, torch.Tensor]
    ) -> None:
        """Bias the draws' rows of `logits` [S, vocab] float32, then ban in them."""
        flat = logits.view(-1)
        if "biased" in sent:
            # names no token twice, so that the order of additions does not matter
            flat.scatter_add_(0, sent["biased"], sent["bias"])
        if "restricted" in sent:
            rows = sent["restricted"]
            masks = [self._forbidden_by(d.request) for d in draws if d.params.allowed_token_ids]
            some = logits.index_select(0, rows).masked_fill_(torch.stack(masks), BANNED)
            logits.index_copy_(0, rows, some)
        if "banned" in sent:
            flat.index_fill_(0, sent["banned"], BANNED)

    def _mask_of(self, request: Request) -> TokenMask:
        mask = self._masks.get(request)
        if mask is None:
            mask = self._masks[request] = TokenMask(request.params)
        return mask

    def _forbidden_by(self, request: Request) -> torch.Tensor:
        """Return the tokens that the request does not allow, bool [vocab] on the device."""
        forbidden = self._forbidden.get(request)
        if forbidden is None:
            host = self._transfers.take(self._vocab_size, dtype=torch.bool).fill_(True)
            host[self._mask_of(request).allowed] = False
            forbidden = torch.empty_like(host, device=self._device)
            self._forbidden[request] = forbidden.copy_(host, non_blocking=True)
        return forbidden

    def __repr__(self) -> str:
        return f"TokenMasks({len(self._masks)} requests, {len(self._forbidden)} on the device)"
