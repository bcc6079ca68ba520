"""A running bridge over the tiny engine, and what it is given."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from services.generator.engine import SamplingParams
from services.generator.serving.bridge import EngineBridge
from services.generator.serving.submission import Submission
from tests.generator.tiny import load
from tests.waiting import until


@asynccontextmanager
async def bridged(folder: Path, *, max_live: int = 8) -> AsyncIterator[EngineBridge]:
    """A running bridge; in the end no sequence and no block may be left."""
    bridge = await EngineBridge.load(lambda: load(folder), max_live)
    watching = asyncio.create_task(bridge.watch())
    try:
        yield bridge
        await until(lambda: bridge.num_live() == 0)
        assert not watching.done(), "the engine failed"
        await bridge.close()
        bridge.engine.check()
        assert bridge.engine.stats().num_blocks_used == 0
    finally:
        await bridge.close()
        await watching


def submission(
    name: str,
    *,
    prompt: tuple[int, ...] = (1, 2, 3),
    max_tokens: int = 8,
    deadline: float = float("inf"),
) -> Submission:
    """A greedy sequence that runs to max_tokens."""
    params = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
    return Submission(name, prompt, params, deadline)
