"""Items from synchronous producers to one reader: none lost, none twice, in order."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.mailbox import Mailbox

# a producer's put of so many items, an error, the reader's start, its cancellation, or a turn
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 3)),
        st.tuples(st.sampled_from(["fail", "read", "cancel", "turn"]), st.just(0)),
    ),
    max_size=40,
)


class Script:
    """One mailbox, its reader's task and what both sides have seen."""

    def __init__(self) -> None:
        self.box = Mailbox[int]()
        self.num_put = 0
        self.error: Exception | None = None
        self.taken: list[int] = []
        self.raised: list[Exception] = []
        self.reader: asyncio.Task[None] | None = None

    def put(self, count: int) -> None:
        items = range(self.num_put, self.num_put + count)
        self.box.put(*items)
        if self.error is None:
            self.num_put += count

    def fail(self, _: int) -> None:
        error = RuntimeError(len(self.taken))
        self.error = self.error or error
        self.box.fail(error)

    def read(self, _: int) -> None:
        if self.reader is None or self.reader.done():
            self.reader = asyncio.create_task(self._read())

    def cancel(self, _: int) -> None:
        if self.reader is not None:
            self.reader.cancel()

    async def _read(self) -> None:
        try:
            items = await self.box.take_all()
        except RuntimeError as error:
            self.raised.append(error)
        else:
            assert items
            self.taken += items

    async def play(self, actions: list[tuple[str, int]]) -> None:
        for name, count in actions:
            if name == "turn":
                await asyncio.sleep(0)
            else:
                getattr(self, name)(count)
        self.cancel(0)
        if self.reader is not None:
            await asyncio.gather(self.reader, return_exceptions=True)
        while len(self.box):
            self.taken += await self.box.take_all()


@settings(deadline=None)
@given(ACTIONS)
def test_every_item_is_read_once_and_in_order(actions: list[tuple[str, int]]) -> None:
    """Whatever is put, read and cancelled in between; after a failure the first error follows."""

    async def play() -> None:
        script = Script()
        await script.play(actions)
        assert script.taken == list(range(script.num_put))
        assert all(error is script.error for error in script.raised)
        if script.error is not None:
            with pytest.raises(RuntimeError) as raised:
                await script.box.take_all()
            assert raised.value is script.error

    asyncio.run(play())


async def test_items_between_two_wake_ups_come_together() -> None:
    """The reader wakes once for everything that was put meanwhile."""
    box = Mailbox[str]()
    reader = asyncio.create_task(box.take_all())
    await asyncio.sleep(0)
    box.put("a")
    box.put("b", "c")
    assert await reader == ["a", "b", "c"]
    assert len(box) == 0


async def test_a_cancellation_with_items_there_loses_none() -> None:
    """A reader that is cancelled in the turn in which it would wake leaves the items."""
    box = Mailbox[str]()
    reader = asyncio.create_task(box.take_all())
    await asyncio.sleep(0)
    box.put("a")
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert await box.take_all() == ["a"]


async def test_a_mailbox_is_idle_once_its_reader_asks_for_more() -> None:
    """Items that were taken count until the reader is done with them."""
    box = Mailbox[str]()
    await box.until_idle()
    box.put("a")
    waiting: asyncio.Task[Any] = asyncio.create_task(box.until_idle())
    await box.take_all()
    await asyncio.sleep(0)
    assert not waiting.done()
    reader = asyncio.create_task(box.take_all())
    await waiting
    box.put("b")
    assert await reader == ["b"]
