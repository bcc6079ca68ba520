"""Parallel sampling: sequences that fork from one computed prompt and share its blocks.

A fork adds a holder to every block of its source. Before a sequence writes into a block that
others hold as well, it gets a copy of its own, see `kv.allocator.CopyOnWrite`.
"""

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


def cancel_forks(request: Request) -> None:
    """Take a request that ends out of the forks it was planned for; the others go on alone."""
    for follower in request.forks:
        follower.source = None
    request.forks = []
    if request.source is not None:
        request.source.forks.remove(request)
        request.source = None


def fork_followers(source: Request, pool: BlockPool) -> list[Request]:
    """Fork all that waited for the source's prompt, and return them."""
    followers, source.forks = source.forks, []
    for follower in followers:
        fork(source, follower, pool)
    return followers


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
