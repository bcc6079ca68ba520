"""Token counts of a request for penalties, as tensors that grow by one token at a time."""

from collections.abc import Sequence

import torch

_FIRST_CAPACITY = 64


class TokenCounts:
    """The distinct tokens of a text and the count of each in its output.

    `ids` and `counts` are views of what is there: an id of the prompt alone has count 0. Memory
    and time go with the distinct tokens, not with the vocabulary.
    """

    def __init__(self, prompt: Sequence[int]) -> None:
        distinct = dict.fromkeys(prompt)
        self._slots = {token_id: slot for slot, token_id in enumerate(distinct)}
        capacity = max(_FIRST_CAPACITY, 2 * len(distinct))
        self._ids = torch.zeros(capacity, dtype=torch.int64)
        self._ids[: len(distinct)] = torch.tensor(list(distinct), dtype=torch.int64)
        self._counts = torch.zeros(capacity)
        self._num_counted = 0

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def ids(self) -> torch.Tensor:
        """The distinct tokens, int64 [n]."""
        return self._ids[: len(self)]

    @property
    def counts(self) -> torch.Tensor:
        """How often the output has each of them, float32 [n]."""
        return self._counts[: len(self)]

    def catch_up(self, token_ids: Sequence[int], num_prompt_tokens: int) -> None:
        """Count the output tokens that came since the last call; calling twice changes nothing."""
        for index in range(num_prompt_tokens + self._num_counted, len(token_ids)):
            # a statement of its own, because a new slot may replace the tensor
            slot = self._slot(token_ids[index])
            self._counts[slot] += 1.0
            self._num_counted += 1

    def after(self, drafts: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `ids` and `counts` as they would be with these tokens in the output too."""
        if not drafts:
            return self.ids, self.counts
        counts = self.counts.clone()
        new: dict[int, float] = {}
        for token_id in drafts:
            slot = self._slots.get(token_id)
            if slot is None:
                new[token_id] = new.get(token_id, 0.0) + 1.0
            else:
                counts[slot] += 1.0
        ids = torch.cat((self.ids, torch.tensor(list(new), dtype=torch.int64)))
        return ids, torch.cat((counts, torch.tensor(list(new.values()))))

    def _slot(self, token_id: int) -> int:
        slot = self._slots.get(token_id)
        if slot is None:
            slot = self._slots[token_id] = len(self._slots)
            if slot == len(self._ids):
                self._ids = torch.cat((self._ids, torch.zeros_like(self._ids)))
                self._counts = torch.cat((self._counts, torch.zeros_like(self._counts)))
            self._ids[slot] = token_id
        return slot

    def __repr__(self) -> str:
        return f"TokenCounts({len(self)} distinct, {self._num_counted} output tokens)"
