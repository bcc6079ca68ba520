"""Which prefix blocks a live request is about to compute, so that nobody computes them twice."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from services.generator.engine.request import Request


class PendingBlocks:
    """Block hashes claimed by running requests; the first to claim a hash keeps it.

    Only requests that run make claims, and those that wait hold no blocks: so a wait always ends,
    with the block computed, or with the claim dropped because its owner ended or was preempted.
    """

    def __init__(self) -> None:
        self._owner_by_hash: dict[bytes, Request] = {}
        self._hashes_by_owner: dict[Request, set[bytes]] = {}

    def __len__(self) -> int:
        return len(self._owner_by_hash)

    def claim(self, request: Request, block_hashes: Iterable[bytes]) -> None:
        """Announce that a request that runs now will compute these blocks."""
        own = {key for key in block_hashes if key not in self._owner_by_hash}
        if own:
            self._owner_by_hash.update(dict.fromkeys(own, request))
            self._hashes_by_owner.setdefault(request, set()).update(own)

    def computed(self, block_hash: bytes) -> None:
        """The block exists, whoever computed it."""
        owner = self._owner_by_hash.pop(block_hash, None)
        if owner is not None:
            self._hashes_by_owner[owner].remove(block_hash)
            if not self._hashes_by_owner[owner]:
                del self._hashes_by_owner[owner]

    def drop(self, request: Request) -> None:
        """The request ended or was preempted: what it claimed is anybody's."""
        for block_hash in self._hashes_by_owner.pop(request, ()):
            del self._owner_by_hash[block_hash]

    def is_worth_waiting(self, request: Request, block_hash: bytes) -> bool:
        """Whether another request computes this block, and is no less urgent than this one.

        For a less urgent one nobody waits: others may keep it from computing.
        """
        owner = self._owner_by_hash.get(block_hash)
        return owner is not None and owner.priority <= request.priority

    def check(self, running: Collection[Request]) -> None:
        """Assert that the two maps mirror each other and every owner runs."""
        claims = {key: owner for owner, keys in self._hashes_by_owner.items() for key in keys}
        assert claims == self._owner_by_hash, "claims differ. This is a bug."
        assert all(self._hashes_by_owner.values()), "an empty claim is left over"
        assert self._hashes_by_owner.keys() <= set(running), "a claim outlives its owner"

    def __repr__(self) -> str:
        return f"PendingBlocks({len(self)} of {len(self._hashes_by_owner)} requests)"
