"""Waiting and running queues, and every move of a request between them."""

import heapq
import operator
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator

from mesh.fair_queue import FairQueue
from services.generator.engine.request import Request, RequestStatus

_BY_ORDER = operator.attrgetter("order")
_TICKET = operator.attrgetter("ticket")


class WaitingQueue(FairQueue[Request]):
    """Requests in the order in which they would start, and their prompts' length together."""

    def __init__(self) -> None:
        super().__init__(_TICKET)
        self.num_prompt_tokens = 0

    def add(self, request: Request) -> None:
        """Let a request wait; a preempted one comes before the others of its tenant."""
        super().add(request)
        self.num_prompt_tokens += request.num_prompt_tokens

    def remove(self, request: Request) -> None:
        """Take out a request that ends without having started."""
        super().remove(request)
        self.num_prompt_tokens -= request.num_prompt_tokens

    def take(self, request: Request) -> None:
        """Take out a request that starts."""
        super().take(request)
        self.num_prompt_tokens -= request.num_prompt_tokens


class RunningQueue:
    """Running requests in scheduling order, by priority and then by arrival: a sorted list.

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
        return f"RunningQueue({len(self)} requests)"


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


class RequestQueues:
    """Owns the live requests; a request's status changes here, together with its queue.

    A running request takes a slot for each of its sequences, those included that fork off later.
    """

    def __init__(self, max_num_seqs: int) -> None:
        self.max_num_seqs = max_num_seqs
        self.clear()

    def __iter__(self) -> Iterator[Request]:
        yield from self.waiting
        yield from self.running

    @property
    def num_free_slots(self) -> int:
        """Sequences that may still start; negative only where the accounts are wrong."""
        return self.max_num_seqs - sum(request.num_slots for request in self.running)

    def add(self, request: Request) -> None:
        """Let a new request wait for its first step."""
        self.waiting.add(request)
        self._deadlines.add(request)

    def take_slot(self, request: Request) -> None:
        """Let a waiting request run."""
        self.waiting.take(request)
        self.running.add(request)
        request.status = RequestStatus.RUNNING

    def preempt(self, request: Request) -> None:
        """Let a running request wait again; a group of beams goes back to its prompt."""
        self._restart_group(request)
        self.running.remove(request)
        request.status = RequestStatus.WAITING
        self.waiting.add(request)

    def remove(self, request: Request) -> None:
        """Take out a request that ends, with all its beams."""
        self._restart_group(request)
        if request.status is RequestStatus.RUNNING:
            self.running.remove(request)
        else:
            self.waiting.remove(request)
        request.status = RequestStatus.FINISHED

    def swap(self, stopped: Iterable[Request], started: Iterable[Request]) -> None:
        """Let some sequences of a group run in place of others, which do not wait in a queue."""
        for request in stopped:
            self.running.remove(request)
            request.status = RequestStatus.WAITING
        for request in started:
            self.running.add(request)
            request.status = RequestStatus.RUNNING

    def expire(self, now_s: float) -> Iterator[Request]:
        """Yield the live requests whose deadline has passed, the earliest first, once."""
        return self._deadlines.take_passed(now_s)

    def clear(self) -> None:
        """Forget all requests, in whatever state they are."""
        self.waiting = WaitingQueue()
        self.running = RunningQueue()
        self._deadlines = Deadlines()

    def _restart_group(self, request: Request) -> None:
        if request.beams is not None:
            self.swap(request.beams.restart(), ())

    def __repr__(self) -> str:
        return f"RequestQueues(running {len(self.running)}, waiting {len(self.waiting)})"
