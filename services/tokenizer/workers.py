"""Threads for what would hold up the loop; knows nothing of text."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from mesh.context import RequestContext
from mesh.errors import Code, MeshError

P = ParamSpec("P")
R = TypeVar("R")
# characters or ids that take well under a millisecond
INLINE_SIZE = 2_000
RETRY_AFTER_S = 1.0


class Workers:
    """A bounded pool: small work runs at once on the loop, large work in `threads` threads.

    At most `waiting` large jobs wait; one more is refused.
    """

    def __init__(self, threads: int, waiting: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="tokenize")
        self._limit = threads + waiting
        self._jobs = 0

    async def run(
        self,
        request: RequestContext,
        size: int,
        work: Callable[P, R],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """Return the result of `work`, within the request's deadline.

        Raises RESOURCE_EXHAUSTED when too many jobs wait, DEADLINE_EXCEEDED, and what work raises.
        """
        request.remaining()
        if size <= INLINE_SIZE:
            return work(*args, **kwargs)
        if self._jobs >= self._limit:
            raise MeshError(
                Code.RESOURCE_EXHAUSTED,
                "Too many large texts wait to be tokenized.",
                retry_after_s=RETRY_AFTER_S,
            )
        self._jobs += 1
        loop = asyncio.get_running_loop()
        job = self._pool.submit(work, *args, **kwargs)
        # a job whose caller left still holds its thread: only its end makes room
        job.add_done_callback(lambda _: loop.call_soon_threadsafe(self._ended))
        async with request.limit():
            return await asyncio.wrap_future(job)

    async def close(self) -> None:
        """Wait for running jobs and drop waiting ones; idempotent."""
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)

    def _ended(self) -> None:
        self._jobs -= 1
