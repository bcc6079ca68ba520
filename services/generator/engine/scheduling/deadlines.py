"""Who must have ended by when."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from services.generator.engine.request import Request


class Deadlines:
    """Live requests by deadline; those that ended are dropped when their time comes."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, int, Request]] = []

    def add(self, request: Request) -> None:
        """Watch a request, if it has a deadline."""
        if request.deadline_s is not None:
            entry = (request.deadline_s, request.arrival_index, request.branch, request)
            heapq.heappush(self._heap, entry)

    def take_passed(self, now_s: float) -> Iterator[Request]:
        """Yield the live requests whose deadline has passed, the earliest first, once."""
        while self._heap and self._heap[0][0] <= now_s:
            *_, request = heapq.heappop(self._heap)
            if not request.is_finished:
                yield request

    def clear(self) -> None:
        """Forget all."""
        self._heap.clear()
