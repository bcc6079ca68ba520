"""A mailbox: synchronous producers, one asynchronous reader that takes whatever has come in.

Unlike `asyncio.Queue` it wakes its reader once for any number of items, and an error ends it.
"""

import asyncio
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """A first-in, first-out mailbox for one event loop and one reader at a time.

    Bounded by argument, not by a limit: a producer cannot wait, so whoever owns a mailbox says at
    its construction why only so many items can be put.
    """

    def __init__(self) -> None:
        self._items: list[T] = []
        self._error: Exception | None = None
        # set while there are items or an error
        self._readable = asyncio.Event()
        # set while the reader has nothing left to do
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._items)

    def put(self, *items: T) -> None:
        """Add items in this order; drop them after `fail`."""
        if self._error is None and items:
            if not self._items:
                self._idle.clear()
                self._readable.set()
            self._items += items

    def fail(self, error: Exception) -> None:
        """End the mailbox: its reader gets what was put before, then the first error."""
        self._error = self._error or error
        self._readable.set()

    async def take_all(self) -> list[T]:
        """Wait for items and take all that are there, at least one; raise the error of `fail`.

        A cancelled call leaves the items to the next one.
        """
        if not self._items:
            self._idle.set()
        await self._readable.wait()
        # nothing below awaits: whoever is cancelled has taken nothing
        if not self._items:
            assert self._error is not None, "two readers. This is a bug."
            raise self._error
        items, self._items = self._items, []
        if self._error is None:
            self._readable.clear()
        return items

    async def until_idle(self) -> None:
        """Wait until all items were taken and the reader, done with them, asks for more."""
        await self._idle.wait()

    def __repr__(self) -> str:
        return f"Mailbox({len(self._items)} items, error={self._error!r})"
