"""A client that leaves frees its sequence's blocks within two steps of the engine.

The whole way is real: socket, gateway, bus, replica, engine. The mock model makes a step longer
than that way, so that steps are a measure: one may be under way when the client leaves, and ends;
the cancel may come after the next has begun; a third would be a sequence that nobody ended.
"""

import asyncio
import re
import time
from collections.abc import Iterator
from typing import NamedTuple

import psutil
import pytest

from tests.e2e.raw_stream import RawStream
from tests.e2e.stack import Address, Stack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

STEP_S = 0.2
MAX_STEPS = 2
NUM_ROUNDS, NUM_STREAMS = 10, 10
# of the stream that stays beside those that leave
NUM_LEAVING, NUM_TOKENS, MAX_BLOCKS = 5, 30, 8
BLOCK_SIZE = 16
PROMPT_WORDS = "the old mill by the river turns its wheel all night long " * 12


class Reading(NamedTuple):
    """The generator's own metrics at one moment."""

    num_steps: int
    num_blocks_used: int


@pytest.fixture(scope="module")
def mock_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One replica with a mock model, one of everything else."""
    started = Stack(
        tmp_path_factory.mktemp("mock"),
        INFERMESH_GENERATOR_ENGINE="mock",
        INFERMESH_GENERATOR_MOCK_TOKEN_MS=str(STEP_S * 1000),
    )
    try:
        started.wait_ready()
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="module")
def metrics(mock_stack: Stack) -> Address:
    """The address of the generator's metrics."""
    (pid,) = mock_stack.pids("generator")
    port = psutil.Process(pid).environ()["INFERMESH_METRICS_PORT"]
    return Address(f"http://127.0.0.1:{port}", "")


async def read(metrics: Address) -> Reading:
    """Return steps and used blocks as one scrape has them: both as the latest step left them."""
    text = await asyncio.to_thread(metrics.text, "/metrics")
    steps = re.search(r"^infermesh_generator_steps_total (\S+)$", text, re.M)
    used = re.search(r'^infermesh_generator_kv_blocks\{state="used"\} (\S+)$', text, re.M)
    assert steps is not None and used is not None, text
    return Reading(int(float(steps[1])), int(float(used[1])))


async def begin(stack: Stack, content: str, max_tokens: int) -> RawStream:
    """Return a stream of which the first text has come."""
    stream = await RawStream.open(
        stack.address,
        model="infermesh-tiny",
        messages=[{"role": "user", "content": content}],
        max_tokens=max_tokens,
        cache="no-store",
        stream_options={"include_usage": True},
    )
    while not await stream.text():
        pass
    return stream


async def until_used(metrics: Address, at_most: int) -> Reading:
    """Return the first reading with so many used blocks or fewer."""
    deadline = time.monotonic() + 10.0
    while (reading := await read(metrics)).num_blocks_used > at_most:
        assert time.monotonic() < deadline, f"still {reading}"
    return reading


async def test_all_blocks_are_free_within_two_steps(mock_stack: Stack, metrics: Address) -> None:
    """100 of 100, ten at a time; they leave at ten different moments of a step."""
    grown = []
    for index in range(NUM_ROUNDS):
        streams = await asyncio.gather(
            *(begin(mock_stack, f"{index} {one}", 500) for one in range(NUM_STREAMS))
        )
        await asyncio.sleep(STEP_S * index / NUM_ROUNDS)
        before = await read(metrics)
        assert before.num_blocks_used >= NUM_STREAMS
        for stream in streams:
            stream.close()
        after = await until_used(metrics, at_most=0)
        # a round's last one: each of its streams was free by then
        grown += [after.num_steps - before.num_steps] * NUM_STREAMS
    assert len(grown) == 100
    assert max(grown) <= MAX_STEPS, grown


async def test_others_run_on(mock_stack: Stack, metrics: Address) -> None:
    """Beside a stream that stays, those that leave are gone as soon, and it misses nothing."""
    stays = await begin(mock_stack, "What does the mill do?", NUM_TOKENS)
    rest = asyncio.create_task(stays.usage())
    grown = []
    for index in range(NUM_LEAVING):
        # its prompt alone takes more blocks than the other stream ever does
        leaves = await begin(mock_stack, f"{index} {PROMPT_WORDS}", 500)
        before = await read(metrics)
        assert before.num_blocks_used > MAX_BLOCKS
        leaves.close()
        after = await until_used(metrics, at_most=MAX_BLOCKS)
        grown.append(after.num_steps - before.num_steps)
        assert after.num_blocks_used > 0
    assert max(grown) <= MAX_STEPS, grown
    usage = await rest
    assert usage["completion_tokens"] == NUM_TOKENS
    assert usage["total_tokens"] <= MAX_BLOCKS * BLOCK_SIZE
