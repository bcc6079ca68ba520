"""Whether one more request may run: not only whether it fits now, but whether it will."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from services.generator.engine.kv.block_pool import BlockPool
from services.generator.engine.request import Request
from services.generator.engine.scheduling.kv_peak import Demand, peak_blocks
from services.generator.engine.scheduling.output_lengths import OutputLengths


class Admission:
    """Compares the pool with the expected peak of its users."""

    def __init__(self, pool: BlockPool, lengths: OutputLengths) -> None:
        self._pool = pool
        self._lengths = lengths

    def fits(self, request: Request, hits: Sequence[int], running: Iterable[Request]) -> bool:
        """Return whether all can live together to their expected ends.

        A request alone always fits: the engine takes none that is larger than the pool.
        """
        tables = [(other, other.block_ids) for other in running]
        if not tables:
            return True
        tables.append((request, list(hits)))
        return peak_blocks(self._demands(tables), self._pool.block_size) <= self._pool.num_blocks

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
