"""Prefix cache: which block holds which prefix, by chained block hashes, and their tree.

Owns names only. Whether a block is in use, idle or free is the pool's business.
"""

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence

from services.generator.engine.kv.events import (
    BlockEvent,
    BlockEventKind,
    BlockEvents,
    BlockSnapshot,
)

_DIGEST_BYTES = 16


def root_hash(cache_salt: str) -> bytes:
    """Return the hash that precedes a first block; requests share blocks only within a salt."""
    return hashlib.blake2b(cache_salt.encode(), digest_size=_DIGEST_BYTES).digest()


def chain_hash(parent_hash: bytes, token_ids: Sequence[int]) -> bytes:
    """Return the hash of one full block: it names these tokens after exactly that prefix.

    The hash is cryptographic, so equal hashes are taken for equal prefixes without a comparison.
    """
    tokens = array("i", token_ids).tobytes()
    return hashlib.blake2b(parent_hash + tokens, digest_size=_DIGEST_BYTES).digest()


class PrefixCache:
    """A two-way map between hashes and blocks; the first block to claim a hash keeps it."""

    def __init__(self, block_size: int, events: BlockEvents | None = None) -> None:
        self._block_size = block_size
        self._events = BlockEvents() if events is None else events
        self._block_by_hash: dict[bytes, int] = {}
        self._hash_by_block: dict[int, bytes] = {}
        self._parents: dict[bytes, bytes] = {}
        self._num_children: dict[bytes, int] = {}
        self._pins: Counter[bytes] = Counter()

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

    def publish(self, block_hash: bytes, parent_hash: bytes, block_id: int) -> None:
        """Name a fully computed block, unless its content or the block has a name already."""
        if block_hash in self._block_by_hash or block_id in self._hash_by_block:
            return
        self._block_by_hash[block_hash] = block_id
        self._hash_by_block[block_id] = block_hash
        self._parents[block_hash] = parent_hash
        self._num_children[parent_hash] = self._num_children.get(parent_hash, 0) + 1
        self._events.record(BlockEventKind.STORED, block_hash, parent_hash, self._block_size)

    def forget(self, block_id: int) -> int | None:
        """Drop the block's name, if it has one; return its parent's block if that is a leaf now."""
        block_hash = self._hash_by_block.pop(block_id, None)
        if block_hash is None:
            return None
        del self._block_by_hash[block_hash]
        parent_hash = self._parents.pop(block_hash)
        self._num_children[parent_hash] -= 1
        self._events.record(BlockEventKind.REMOVED, block_hash, parent_hash, self._block_size)
        if self._num_children[parent_hash] > 0:
            return None
        del self._num_children[parent_hash]
        return self._block_by_hash.get(parent_hash)

    def has_children(self, block_id: int) -> bool:
        """Return whether a named block continues this one."""
        return self._hash_by_block[block_id] in self._num_children

    def is_pinned(self, block_id: int) -> bool:
        """Return whether this block's content is pinned."""
        return self._hash_by_block[block_id] in self._pins

    def pin(self, block_hashes: Iterable[bytes]) -> None:
        """Ask to keep these contents, known now or later, until `unpin` is called as often."""
        self._pins.update(block_hashes)

    def unpin(self, block_hashes: Sequence[bytes]) -> list[int]:
        """Take one pin back from each; return the blocks that are not pinned any more."""
        self._pins.subtract(block_hashes)
        assert all(self._pins[key] >= 0 for key in block_hashes), "unpinned twice. This is a bug."
        unpinned = [key for key in block_hashes if self._pins[key] == 0]
        for block_hash in unpinned:
            del self._pins[block_hash]
        return [self._block_by_hash[key] for key in unpinned if key in self._block_by_hash]

    def events_since(self, number: int) -> list[BlockEvent] | None:
        """Return the changes after event `number`; None if the reader needs a snapshot."""
        return self._events.since(number)

    def snapshot(self) -> BlockSnapshot:
        """Return all names as they are now, with the number of the last event."""
        return BlockSnapshot(self._events.last_number, tuple(self._parents.items()))

    def check(self) -> None:
        """Assert that the maps mirror each other and the tree counts each name once."""
        mirrored = {block_id: key for key, block_id in self._block_by_hash.items()}
        assert mirrored == self._hash_by_block, "prefix maps differ. This is a bug."
        assert self._parents.keys() == self._block_by_hash.keys(), "a parent is lost or left over"
        assert self._num_children == Counter(self._parents.values()), "children differ"
        assert all(count > 0 for count in self._pins.values()), "a pin is left over"
        self._events.check()

    def __repr__(self) -> str:
        return f"PrefixCache({len(self)} blocks named)"
