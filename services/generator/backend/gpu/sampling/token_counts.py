"""Token counts of the requests that penalise what occurred, dense on the device."""

from collections.abc import Iterable, Mapping
from weakref import WeakKeyDictionary, finalize

import torch

from services.generator.engine.request import Request


class _Slot:
    """A row of the counts and how much of a request is in it; None before it is cleared."""

    __slots__ = ("index", "num_counted")

    def __init__(self, index: int) -> None:
        self.index = index
        self.num_counted: int | None = None


class DeviceTokenCounts:
    """A row per live request of `counts` (int32, its output) and `prompts` (uint8) [slots, vocab].

    The rows follow from the requests' tokens alone: to catch up twice, or again after a step that
    was not launched to its end, changes nothing. They are taken back when a request dies.
    """

    def __init__(self, device: torch.device, vocab_size: int, num_slots: int) -> None:
        """`num_slots` is how many there are at first; they double as needed."""
        self.counts = torch.zeros(num_slots, vocab_size, dtype=torch.int32, device=device)
        self.prompts = torch.zeros(num_slots, vocab_size, dtype=torch.uint8, device=device)
        self._slots: WeakKeyDictionary[Request, _Slot] = WeakKeyDictionary()
        self._free = list(range(num_slots))

    def index(self, request: Request) -> int:
        """Return the request's row."""
        return self._slot(request).index

    def columns(self, requests: Iterable[Request]) -> dict[str, torch.Tensor]:
        """Return what `catch_up` needs to know of these distinct requests, in host memory.

        Tokens are indices into the flat counts.
        """
        new_slots: list[int] = []
        prompt: list[int] = []
        output: list[int] = []
        for request in requests:
            slot = self._slot(request)
            start = slot.index * self.counts.shape[1]
            if slot.num_counted is None:
                new_slots.append(slot.index)
                # only the repetition penalty looks at the prompt
                if request.params.repetition_penalty != 1.0:
                    known = request.token_ids[: request.num_prompt_tokens]
                    prompt += [start + token_id for token_id in set(known)]
            first = request.num_prompt_tokens + (slot.num_counted or 0)
            output += [start + token_id for token_id in request.token_ids[first:]]
        columns = {"new_slots": new_slots, "prompt": prompt, "output": output}
        return {name: torch.tensor(column, dtype=torch.int64) for name, column in columns.items()}

    def catch_up(self, requests: Iterable[Request], sent: Mapping[str, torch.Tensor]) -> None:
        """Count what came since the last call, by what `columns` returned."""
        self.counts.index_fill_(0, sent["new_slots"], 0)
        self.prompts.index_fill_(0, sent["new_slots"], 0)
        self.prompts.view(-1).index_fill_(0, sent["prompt"], 1)
        add_ones(self.counts, sent["output"])
        for request in requests:
            self._slots[request].num_counted = request.num_output_tokens

    def _slot(self, request: Request) -> _Slot:
        slot = self._slots.get(request)
        if slot is None:
            if not self._free:
                self._grow()
            slot = self._slots[request] = _Slot(self._free.pop())
            finalize(request, self._free.append, slot.index)
        return slot

    def _grow(self) -> None:
        num_slots = len(self.counts)
        self.counts = torch.cat((self.counts, torch.zeros_like(self.counts)))
        self.prompts = torch.cat((self.prompts, torch.zeros_like(self.prompts)))
        self._free += range(num_slots, 2 * num_slots)

    def __repr__(self) -> str:
        return f"DeviceTokenCounts({len(self._slots)} of {len(self.counts)} slots)"


def add_ones(counts: torch.Tensor, indices: torch.Tensor) -> None:
    """Add 1 to contiguous int32 counts, laid flat, at each of these `indices` (int64 [n])."""
    ones = torch.ones(len(indices), dtype=torch.int32, device=counts.device)
    counts.view(-1).scatter_add_(0, indices, ones)
