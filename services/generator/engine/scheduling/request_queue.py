"""Running requests in scheduling order: by priority, then by arrival."""

from __future__ import annotations

import operator
from bisect import bisect_left, insort
from collections.abc import Iterator

from services.generator.engine.request import Request

_BY_ORDER = operator.attrgetter("order")


class RequestQueue:
    """A sorted list; insert and remove find their place by bisection.

    A preempted request keeps its arrival index, so it returns to the place it had.
    """

    def __init__(self) -> None:
        self._requests: list[Request] = []

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._requests)

    def __getitem__(self, index: int) -> Request:
        return self._requests[index]

    def add(self, request: Request) -> None:
        """Insert at the place that `request.order` gives."""
        insort(self._requests, request, key=_BY_ORDER)

    def remove(self, request: Request) -> None:
        """Take out a request that is in the queue."""
        index = bisect_left(self._requests, request.order, key=_BY_ORDER)
        removed = self._requests.pop(index)
        assert removed is request, f"{request!r} is not in this queue. This is a bug."

    def __repr__(self) -> str:
        return f"RequestQueue({len(self)} requests)"
