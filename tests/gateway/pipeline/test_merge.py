"""Several streams as one: order within each, bounds, failures and early ends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from services.gateway.pipeline.merge import MAX_WAITING, merged


class Source:
    """Counts what it gave and whether it was closed."""

    def __init__(self, items: int, fails: bool = False, hangs: bool = False) -> None:
        self.items, self.fails, self.hangs = items, fails, hangs
        self.given = 0
        self.closed = False

    async def stream(self) -> AsyncIterator[int]:
        try:
            for item in range(self.items):
                self.given += 1
                yield item
            if self.fails:
                raise ValueError("broken")
            if self.hangs:
                await asyncio.Event().wait()
        finally:
            self.closed = True


@pytest.mark.parametrize("count", [1, 2, 5])
async def test_all_items_in_the_order_of_their_stream(count: int) -> None:
    """Every item comes once, with its stream's index, in its stream's order."""
    sources = [Source(100) for _ in range(count)]
    seen: dict[int, list[int]] = {i: [] for i in range(count)}
    async for index, item in merged([s.stream() for s in sources]):
        seen[index].append(item)
    assert all(items == list(range(100)) for items in seen.values())
    assert all(s.closed for s in sources)


@pytest.mark.parametrize("count", [1, 3])
async def test_leaving_early_closes_all(count: int) -> None:
    """Whoever leaves after one item leaves no stream open and no task behind."""
    sources = [Source(1, hangs=True) for _ in range(count)]
    async with aclosing(merged([s.stream() for s in sources])) as items:
        async for _ in items:
            break
    assert all(s.closed for s in sources if s.given)
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("others", [0, 2])
async def test_a_failure_is_raised_as_itself_and_closes_all(others: int) -> None:
    """One broken stream ends the whole with its own exception."""
    sources = [Source(2, fails=True)] + [Source(1, hangs=True) for _ in range(others)]
    with pytest.raises(ValueError, match="broken"):
        async for _ in merged([s.stream() for s in sources]):
            pass
    assert all(s.closed for s in sources)


async def test_a_slow_reader_holds_the_streams_back() -> None:
    """Nothing is read ahead beyond the bound."""
    sources = [Source(10_000), Source(10_000)]
    async with aclosing(merged([s.stream() for s in sources])) as items:
        await anext(items)
        for _ in range(10):
            await asyncio.sleep(0)
        assert sum(s.given for s in sources) <= MAX_WAITING + 3


async def test_cancellation_of_the_reader_closes_all() -> None:
    """A cancelled reader takes its streams along."""
    sources = [Source(0, hangs=True), Source(0, hangs=True)]
    begun = asyncio.Event()

    async def read() -> None:
        begun.set()
        async with aclosing(merged([s.stream() for s in sources])) as items:
            async for _ in items:
                pass

    task = asyncio.create_task(read())
    await begun.wait()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(asyncio.all_tasks()) == 1
