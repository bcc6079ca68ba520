"""Bans and bias on the rows that ask for them, as `LogitEdits` has them, on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

import torch

from services.generator.backend.gpu.transfers import Transfers
from services.generator.backend.sampling.token_mask import VocabularyEdit
from services.generator.engine.draw import Draw, held_back_stops
from services.generator.engine.request import Request

BANNED = float("-inf")


class VocabularyEdits:
    """Remembers per live request what its options need, and drops it with the request.

    Bias and bans are sparse and are sent each step. What a request does not allow is a mask of its
    own [vocab], bool, which stays on the device.
    """

    def __init__(self, transfers: Transfers, device: torch.device, vocab_size: int) -> None:
        self._transfers = transfers
        self._device = device
        self._vocab_size = vocab_size
        self._edits: WeakKeyDictionary[Request, VocabularyEdit] = WeakKeyDictionary()
        self._forbidden: WeakKeyDictionary[Request, torch.Tensor] = WeakKeyDictionary()

    def columns(self, draws: Sequence[Draw]) -> dict[str, torch.Tensor]:
        """Return what `apply_` needs of these draws, in host memory; none where it has no work.

        Tokens of rows are places in the flat logits.
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
            if draw.params.edits_vocabulary:
                edit = self._edit(draw.request)
                banned.append(edit.banned + row * vocab_size)
                biased.append(edit.biased + row * vocab_size)
                bias.append(edit.bias)
                restricted += [row] * bool(len(edit.allowed))
        found = {}
        if held_back or biased:
            found["banned"] = torch.cat(banned)
        if biased:
            found["biased"], found["bias"] = torch.cat(biased), torch.cat(bias)
        if restricted:
            found["restricted"] = torch.tensor(restricted)
        return found

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
            masks = [self._mask(d.request) for d in draws if d.params.allowed_token_ids]
            some = logits.index_select(0, rows).masked_fill_(torch.stack(masks), BANNED)
            logits.index_copy_(0, rows, some)
        if "banned" in sent:
            flat.index_fill_(0, sent["banned"], BANNED)

    def _edit(self, request: Request) -> VocabularyEdit:
        edit = self._edits.get(request)
        if edit is None:
            edit = self._edits[request] = VocabularyEdit(request.params)
        return edit

    def _mask(self, request: Request) -> torch.Tensor:
        """Return the tokens that the request does not allow, bool [vocab] on the device."""
        mask = self._forbidden.get(request)
        if mask is None:
            host = self._transfers.take(self._vocab_size, dtype=torch.bool).fill_(True)
            host[self._edit(request).allowed] = False
            mask = torch.empty_like(host, device=self._device).copy_(host, non_blocking=True)
            self._forbidden[request] = mask
        return mask

    def __repr__(self) -> str:
        return f"VocabularyEdits({len(self._edits)} requests, {len(self._forbidden)} masks)"
