"""Admission: whether one more request may run; not only whether it fits now, but whether it will.

A request is admitted if the expected peak of the KV cache, over the remaining lives of all that
run, stays within the pool. Output lengths are predicted from those of requests that ended.
"""

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from services.generator.engine.chunk import Chunk
from services.generator.engine.kv.block_pool import BlockPool
from services.generator.engine.kv.prefix_sharing import PrefixSharing
from services.generator.engine.request import Request
from services.generator.engine.scheduling.queues import RequestQueues
from services.generator.engine.scheduling.step_budget import StepBudget

_WINDOW = 1000


class Demand(NamedTuple):
    """One request: the tokens it must hold now, and the tokens it is expected to add.

    `num_tokens` leaves out what another, longer-lived request holds as well.
    """

    num_tokens: int
    num_remaining: int


def peak_blocks(demands: Iterable[Demand], block_size: int) -> int:
    """Return the peak if all grow by one token a step, with half an empty block for each.

    The sum grows until a request ends, so its maxima lie where one ends; sorted by remaining
    tokens each is one product. The idea is LightLLM's future-peak estimate.
    """
    peak = num_held = 0
    by_remaining = sorted(demands, key=lambda demand: demand.num_remaining, reverse=True)
    for count, demand in enumerate(by_remaining, start=1):
        num_held += demand.num_tokens + block_size // 2
        peak = max(peak, num_held + count * demand.num_remaining)
    return peak // block_size


class OutputLengths:
    """A quantile of recent output lengths, given what a request has generated already.

    Without history it expects `max_tokens`. Quantile 0 expects nothing beyond the next token,
    which makes admission greedy. The idea is that of the Past-Future scheduler (LightLLM, 2025).
    """

    def __init__(self, quantile: float) -> None:
        self._quantile = quantile
        self._recent: deque[int] = deque()
        self._sorted: list[int] = []

    def observe(self, num_output_tokens: int) -> None:
        """Learn the length of an output that ended by itself."""
        if len(self._recent) == _WINDOW:
            self._sorted.pop(bisect_left(self._sorted, self._recent.popleft()))
        self._recent.append(num_output_tokens)
        insort(self._sorted, num_output_tokens)

    def expected_remaining(self, num_output_tokens: int, max_tokens: int) -> int:
        """Return how many tokens more to expect, from 1 to what `max_tokens` leaves."""
        if self._quantile == 0.0:
            return 1
        first = bisect_right(self._sorted, num_output_tokens)
        num_longer = len(self._sorted) - first
        expected = max_tokens
        if num_longer > 0:
            expected = min(max_tokens, self._sorted[first + self._index(num_longer)])
        return max(1, expected - num_output_tokens)

    def _index(self, count: int) -> int:
        return min(count - 1, int(self._quantile * count))

    def __repr__(self) -> str:
        return f"OutputLengths({len(self._recent)} lengths, quantile {self._quantile})"


class Admission:
    """Lets waiting requests run, in their order, as long as the expected peak fits the pool."""

    def __init__(
        self,
        pool: BlockPool,
        lengths: OutputLengths,
        prefixes: PrefixSharing,
        queues: RequestQueues,
    ) -> None:
        self.num_waiting_for_prefix = 0
        self._pool = pool
        self._lengths = lengths
        self._prefixes = prefixes
        self._queues = queues

    def admit(self, budget: StepBudget, now_s: float) -> list[Chunk]:
        """Start what the slots, the blocks and the step's budget have room for.

        A request whose prefix is being computed is passed over; otherwise none overtakes.
        """
        chunks: list[Chunk] = []
        if not self._queues.waiting:
            return chunks
        num_free_slots = self._queues.num_free_slots
        for request in self._queues.waiting:
            if request.source is not None:
                continue
            if budget.num_tokens == 0 or request.num_slots > num_free_slots:
                break
            hits = self._prefixes.find_hits(request)
            if hits is None:
                self.num_waiting_for_prefix += 1
                continue
            start = len(hits) * self._pool.block_size
            num_tokens = budget.offer(start, request.num_tokens - start)
            if num_tokens == 0 or not self._reserve(request, hits, start + num_tokens):
                break
            self._start(request, now_s)
            num_free_slots -= request.num_slots
            chunks.append(Chunk(request, start, num_tokens))
            budget.take(start, num_tokens)
        return chunks

    def fits(self, request: Request, hits: Sequence[int], running: Iterable[Request]) -> bool:
        """Return whether all can live together to their expected ends.

        A request alone always fits: the engine takes none that is larger than the pool.
        """
        tables = [(other, other.block_ids) for other in running]
        if not tables:
            return True
        tables.append((request, list(hits)))
        return peak_blocks(self._demands(tables), self._pool.block_size) <= self._pool.num_blocks

    def _reserve(self, request: Request, hits: list[int], num_tokens: int) -> bool:
        """Give a request its prefix hits and blocks for `num_tokens`, or change nothing."""
        pool = self._pool
        if not self.fits(request, hits, self._queues.running):
            return False
        pool.share(hits, request.priority)
        num_missing = pool.num_blocks_for(num_tokens) - len(hits)
        if num_missing > pool.num_available:
            pool.release(hits)
            return False
        request.block_ids = hits + pool.allocate(num_missing, request.priority)
        request.num_computed_tokens = len(hits) * pool.block_size
        return True

    def _start(self, request: Request, now_s: float) -> None:
        self._queues.take_slot(request)
        if request.first_scheduled_s is None:
            request.first_scheduled_s = now_s
            request.num_cached_tokens = request.num_computed_tokens
        self._prefixes.start(request)

    def _demands(self, tables: list[tuple[Request, list[int]]]) -> list[Demand]:
        """Charge each shared block to the longest-lived of its holders."""
        ends = [(self._remaining(request), request, blocks) for request, blocks in tables]
        ends.sort(key=lambda end: end[0], reverse=True)
        newcomer_hits = set(tables[-1][1])
        charged: set[int] = set()
        demands = []
        for remaining, request, block_ids in ends:
            num_charged = 0
            # a partly filled block that forks share is copied before any of them fills it
            for block_id in block_ids[: (request.num_tokens - 1) // self._pool.block_size]:
                if self._pool.num_holders(block_id) < 2 and block_id not in newcomer_hits:
                    break  # what is shared is a prefix of the table
                num_charged += block_id in charged
                charged.add(block_id)
            num_tokens = request.num_tokens - num_charged * self._pool.block_size
            demands.append(Demand(num_tokens, remaining))
            own = Demand(request.num_tokens % self._pool.block_size, remaining)
            demands += [own] * len(request.forks)
        return demands

    def _remaining(self, request: Request) -> int:
        if request.beams is not None:
            # seldom shorter, and costly to preempt
            return request.params.max_tokens - request.num_output_tokens
        return self._lengths.expected_remaining(
            request.num_output_tokens, request.params.max_tokens
        )

    def __repr__(self) -> str:
        return f"Admission({self._lengths!r})"
