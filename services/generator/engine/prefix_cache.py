"""Which block holds which prefix: a map from chained block hashes to block ids.

Owns names only. Whether a block is in use, idle or free is the pool's business.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence

_DIGEST_BYTES = 16


def root_hash(cache_salt: str) -> bytes:
    """Return the hash that precedes a first block; requests share blocks only within a salt."""
    return hashlib.blake2b(cache_salt.encode(), digest_size=_DIGEST_BYTES).digest()


def chain_hash(parent_hash: bytes, token_ids: Sequence[int]) -> bytes:
    """Return the hash of one full block: it names these tokens after exactly that prefix.

    The hash is cryptographic, so equal hashes are taken for equal prefixes without a comparison.
    """
    tokens = array("q", token_ids).tobytes()
    return hashlib.blake2b(tokens, key=parent_hash, digest_size=_DIGEST_BYTES).digest()


class PrefixCache:
    """A two-way map between hashes and blocks; the first block to claim a hash keeps it."""

    def __init__(self) -> None:
        self._block_by_hash: dict[bytes, int] = {}
        self._hash_by_block: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self._block_by_hash)

    def __contains__(self, block_id: int) -> bool:
        return block_id in self._hash_by_block

    def match(self, block_hashes: Iterable[bytes]) -> list[int]:
        """Return the blocks of the longest known prefix of the chain."""
        block_ids: list[int] = []
        for block_hash in block_hashes:
            block_id = self._block_by_hash.get(block_hash)
            if block_id is None:
                break
            block_ids.append(block_id)
        return block_ids

    def publish(self, block_hash: bytes, block_id: int) -> None:
        """Name a fully computed block, unless its content or the block has a name already."""
        if block_hash not in self._block_by_hash and block_id not in self._hash_by_block:
            self._block_by_hash[block_hash] = block_id
            self._hash_by_block[block_id] = block_hash

    def forget(self, block_id: int) -> None:
        """Drop the block's name, if it has one."""
        block_hash = self._hash_by_block.pop(block_id, None)
        if block_hash is not None:
            del self._block_by_hash[block_hash]

    def check(self) -> None:
        """Assert that the two maps mirror each other."""
        mirrored = {block_id: key for key, block_id in self._block_by_hash.items()}
        assert mirrored == self._hash_by_block, "prefix maps differ. This is a bug."

    def __repr__(self) -> str:
        return f"PrefixCache({len(self)} blocks named)"
