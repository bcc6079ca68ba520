"""Sequences that go on from one computed prompt: they share its blocks and copy on write.

A fork adds a holder to every block of its source. Before a sequence writes into a block that
others hold as well, it gets a copy of its own; only a partly filled last block is ever copied.
"""

from __future__ import annotations

from hashlib import blake2b

from services.generator.engine.kv.block_pool import BlockPool
from services.generator.engine.request import Request


def sequence_id(request_id: str, index: int) -> str:
    """Return the id of a request's `index`-th sequence; the first has the request's own."""
    return request_id if index == 0 else f"{request_id}/{index}"


def sequence_seed(seed: int, index: int) -> int:
    """Return the seed of a request's `index`-th sequence: the first keeps it, others hash it."""
    if index == 0:
        return seed
    key = (seed % 2**64).to_bytes(8, "little")
    digest = blake2b(index.to_bytes(8, "little"), key=key, digest_size=8, person=b"sequence")
    return int.from_bytes(digest.digest(), "little")


def plan_forks(source: Request, followers: list[Request]) -> None:
    """Let the followers wait for the source's prompt, to go on from it."""
    source.forks = followers
    for follower in followers:
        follower.source = source


def part(request: Request) -> None:
    """Take a request that ends out of the forks it was planned for; the others go on alone."""
    for follower in request.forks:
        follower.source = None
    request.forks = []
    if request.source is not None:
        request.source.forks.remove(request)
        request.source = None


def fork(source: Request, target: Request, pool: BlockPool) -> None:
    """Let `target` know and hold what `source` has computed; what it held itself is let go."""
    pool.share(source.block_ids, target.priority)
    pool.release(target.block_ids)
    target.source = None
    target.token_ids = source.token_ids[: source.num_computed_tokens]
    target.block_ids = list(source.block_ids)
    target.block_hashes = list(source.block_hashes)
    target.num_computed_tokens = source.num_computed_tokens
    target.num_cached_tokens = source.num_cached_tokens
    target.num_scored_tokens = source.num_scored_tokens
    target.new_prompt_logprobs = list(source.new_prompt_logprobs)
    target.first_scheduled_s = source.first_scheduled_s
    target.first_token_s = source.first_token_s


class CopyOnWrite:
    """The copies that the next step needs before it writes."""

    def __init__(self, pool: BlockPool) -> None:
        self._pool = pool
        self._source_by_target: dict[int, int] = {}

    def num_needed(self, request: Request) -> int:
        """Return 1 if the block that the request writes into next is held by others too, or 0."""
        index = request.num_computed_tokens // self._pool.block_size
        block_ids = request.block_ids
        return int(index < len(block_ids) and self._pool.num_holders(block_ids[index]) > 1)

    @property
    def is_pending(self) -> bool:
        """Return whether there is something to take."""
        return bool(self._source_by_target)

    def detach(self, request: Request) -> None:
        """Give the request its own copy of the shared block that it writes into next."""
        index = request.num_computed_tokens // self._pool.block_size
        shared = request.block_ids[index]
        [request.block_ids[index]] = self._pool.allocate(1, request.priority)
        self._pool.release([shared])
        # a target of a sequence that was preempted since then may be another's by now
        self._source_by_target[request.block_ids[index]] = shared

    def take(self) -> list[tuple[int, int]]:
        """Return the pairs (from, to) to be copied now, each target once, all read first."""
        pairs = [(source, target) for target, source in self._source_by_target.items()]
        self._source_by_target = {}
        return pairs
