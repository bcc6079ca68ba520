"""The pool: inline or in a thread, bounded, within a deadline."""

import asyncio
import threading

import pytest

from mesh.context import RequestContext
from mesh.errors import Code, MeshError
from services.tokenizer.workers import INLINE_SIZE, Workers

LARGE = INLINE_SIZE + 1


async def test_only_large_work_leaves_the_loop() -> None:
    """Small work is done by the time a thread would have started."""
    workers = Workers(threads=1, waiting=0)
    request = RequestContext.start(5)
    here = threading.get_ident()
    assert await workers.run(request, INLINE_SIZE, threading.get_ident) == here
    assert await workers.run(request, LARGE, threading.get_ident) != here
    await workers.close()


async def test_more_than_may_wait_is_refused_and_an_end_makes_room() -> None:
    """A full pool says when to try again."""
    workers = Workers(threads=1, waiting=0)
    request = RequestContext.start(5)
    release = threading.Event()
    running = asyncio.create_task(workers.run(request, LARGE, release.wait, 5))
    await asyncio.sleep(0)
    with pytest.raises(MeshError) as caught:
        await workers.run(request, LARGE, int)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    assert caught.value.retry_after_s is not None
    release.set()
    assert await running
    assert await workers.run(request, LARGE, int) == 0
    await workers.close()
    await workers.close()


async def test_the_deadline_ends_the_waiting_but_not_the_count() -> None:
    """A thread that still works counts, so that late callers cannot pile up jobs."""
    workers = Workers(threads=1, waiting=0)
    release = threading.Event()
    with pytest.raises(MeshError) as caught:
        await workers.run(RequestContext.start(0.02), LARGE, release.wait, 5)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    with pytest.raises(MeshError) as caught:
        await workers.run(RequestContext.start(5), LARGE, int)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    release.set()
    await workers.close()


async def test_errors_of_the_work_come_through() -> None:
    """The caller sees what the work raised, wherever it ran."""
    workers = Workers(threads=1, waiting=1)
    for size in (1, LARGE):
        with pytest.raises(ValueError, match="invalid literal"):
            await workers.run(RequestContext.start(5), size, int, "x")
    await workers.close()
