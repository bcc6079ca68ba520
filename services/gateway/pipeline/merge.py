"""Many sequences of one request as one stream of (run, delta)."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

T = TypeVar("T")

# per request; a full queue holds the sequences back as a slow reader of one would
MAX_WAITING = 64


async def merged(streams: Sequence[AsyncIterator[T]]) -> AsyncGenerator[tuple[int, T], None]:
    """Yield items of all streams as they come, with the stream's index.

    Closing it, or a failure of any stream, closes all of them before it returns.
    """
    if len(streams) == 1:
        async with _closing(streams[0]) as only:
            async for item in only:
                yield 0, item
        return
    # bounded by `room`, so that the end can always be put
    queue: asyncio.Queue[tuple[int, T] | None] = asyncio.Queue()
    room = asyncio.Semaphore(MAX_WAITING)

    async def pump(index: int, stream: AsyncIterator[T]) -> None:
        async with _closing(stream) as items:
            async for item in items:
                await room.acquire()
                queue.put_nowait((index, item))

    async def pump_all() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for index, stream in enumerate(streams):
                    group.create_task(pump(index, stream))
        finally:
            queue.put_nowait(None)

    pumping = asyncio.create_task(pump_all(), name="merge")
    try:
        while (entry := await queue.get()) is not None:
            room.release()
            yield entry
        await _first_failure(pumping)
    finally:
        pumping.cancel()
        await asyncio.gather(pumping, return_exceptions=True)


async def _first_failure(pumping: "asyncio.Task[None]") -> None:
    try:
        await pumping
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


def _closing(stream: AsyncIterator[T]) -> Any:
    return aclosing(stream)
