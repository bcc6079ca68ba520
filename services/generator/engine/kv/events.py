"""Block events: changes of the prefix cache, numbered, so that a reader elsewhere can follow it."""

import enum
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

DEFAULT_CAPACITY = 16_384


class BlockEventKind(enum.Enum):
    """A name can be hit from STORED on, until REMOVED."""

    STORED = "stored"
    REMOVED = "removed"


class BlockEvent(NamedTuple):
    """One change of one name. The parent of a first block is the root hash of its salt."""

    number: int
    kind: BlockEventKind
    block_hash: bytes
    parent_hash: bytes
    num_tokens: int


@dataclass(frozen=True, slots=True)
class BlockSnapshot:
    """All names after event `number`, as pairs of block hash and parent hash."""

    number: int
    blocks: tuple[tuple[bytes, bytes], ...]


class BlockEvents:
    """A ring of the latest events; numbers begin at 1 and have no gaps."""

    def __init__(self, capacity: int = DEFAULT_CAPACITY) -> None:
        self._ring: deque[BlockEvent] = deque(maxlen=capacity)
        self.last_number = 0

    def record(
        self, kind: BlockEventKind, block_hash: bytes, parent_hash: bytes, num_tokens: int
    ) -> None:
        """Append the next event; the oldest one leaves when the ring is full."""
        self.last_number += 1
        self._ring.append(BlockEvent(self.last_number, kind, block_hash, parent_hash, num_tokens))

    def since(self, number: int) -> list[BlockEvent] | None:
        """Return the events after `number`; None if the reader needs a full snapshot.

        That is so when events it missed have left the ring, or when it counts another's events.
        """
        num_missed = self.last_number - number
        if not 0 <= num_missed <= len(self._ring):
            return None
        return list(islice(self._ring, len(self._ring) - num_missed, None))

    def check(self) -> None:
        """Assert that the numbers in the ring have no gaps and end at the last one."""
        numbers = [event.number for event in self._ring]
        first = self.last_number - len(numbers) + 1
        assert numbers == list(range(first, self.last_number + 1)), "event numbers have gaps"

    def __repr__(self) -> str:
        return f"BlockEvents(last {self.last_number}, kept {len(self._ring)})"
