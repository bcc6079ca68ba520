"""Sharing the encoder: batches, urgency, bounds, departures."""

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from mesh.errors import Code, MeshError
from services.retriever.encoder_batcher import EncoderBatcher, EncoderStoppedError, Urgency


class Gate:
    """An encoder that records its batches and can be held."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.open = threading.Event()
        self.entered = threading.Event()
        self.open.set()

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.batches.append(list(texts))
        self.entered.set()
        assert self.open.wait(10)
        if "bad" in texts:
            raise ValueError("cannot encode")
        return np.array([[float(text)] for text in texts], np.float32)

    async def hold(
        self, batcher: EncoderBatcher, text: str = "0"
    ) -> asyncio.Task[NDArray[np.float32]]:
        """Closes the gate behind one text that is in the encoder when this returns."""
        self.open.clear()
        self.entered.clear()
        task = asyncio.create_task(batcher.encode([text], Urgency.SEARCH))
        await asyncio.to_thread(self.entered.wait, 10)
        return task


async def test_concurrent_callers_share_batches_and_get_their_own() -> None:
    """What waits while a batch runs goes together in the next."""
    gate = Gate()
    async with EncoderBatcher(gate) as batcher, asyncio.timeout(10):
        first = await gate.hold(batcher)
        others = [
            asyncio.create_task(batcher.encode([str(i), str(i + 100)], Urgency.SEARCH))
            for i in range(1, 11)
        ]
        await asyncio.sleep(0)
        gate.open.set()
        results = await asyncio.gather(first, *others)
    assert [len(batch) for batch in gate.batches] == [1, 20]
    assert [r.ravel().tolist() for r in results[1:]] == [[i, i + 100.0] for i in range(1, 11)]


async def test_a_search_passes_a_long_ingestion() -> None:
    """It waits for the batch that runs and for no more."""
    gate = Gate()
    async with EncoderBatcher(gate) as batcher, asyncio.timeout(10):
        first = await gate.hold(batcher)
        long = asyncio.create_task(batcher.encode([str(i) for i in range(10, 110)], Urgency.INGEST))
        await asyncio.sleep(0)
        search = asyncio.create_task(batcher.encode(["7"], Urgency.SEARCH))
        await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(first, search, long)
    assert gate.batches[1] == ["7"]
    assert max(len(batch) for batch in gate.batches[2:]) == 8
    assert (await asyncio.wait_for(long, 1)).ravel().tolist() == list(range(10, 110))


async def test_ingestion_is_not_starved() -> None:
    """However many searches wait, an ingestion gets its turn among them."""
    gate = Gate()
    async with EncoderBatcher(gate) as batcher, asyncio.timeout(10):
        first = await gate.hold(batcher)
        searches = [
            asyncio.create_task(batcher.encode(["1"] * 32, Urgency.SEARCH)) for _ in range(16)
        ]
        slow = asyncio.create_task(batcher.encode(["2"], Urgency.INGEST))
        embeds = asyncio.create_task(batcher.encode(["3"] * 256, Urgency.EMBED))
        await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(first, slow, embeds, *searches)
    assert ["2"] in gate.batches[1:18]


async def test_too_many_waiting_texts_are_refused() -> None:
    """The caller is told to come back; what waited is served."""
    gate = Gate()
    async with EncoderBatcher(gate) as batcher, asyncio.timeout(10):
        first = await gate.hold(batcher)
        waiting = asyncio.create_task(batcher.encode(["1"] * 512, Urgency.SEARCH))
        await asyncio.sleep(0)
        with pytest.raises(MeshError) as caught:
            await batcher.encode(["2"], Urgency.SEARCH)
        assert caught.value.code is Code.RESOURCE_EXHAUSTED
        assert caught.value.retry_after_s is not None
        gate.open.set()
        assert len((await asyncio.gather(first, waiting))[1]) == 512


async def test_texts_of_a_caller_that_left_are_not_encoded() -> None:
    """They leave the queue with their caller."""
    gate = Gate()
    async with EncoderBatcher(gate) as batcher, asyncio.timeout(10):
        first = await gate.hold(batcher)
        left = asyncio.create_task(batcher.encode(["1"] * 100, Urgency.SEARCH))
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        last = asyncio.create_task(batcher.encode(["2"], Urgency.SEARCH))
        await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(first, last)
    assert gate.batches == [["0"], ["2"]]


async def test_a_fault_reaches_its_callers_alone() -> None:
    """The batch fails; the next one works."""
    async with EncoderBatcher(Gate()) as batcher, asyncio.timeout(10):
        with pytest.raises(ValueError, match="cannot encode"):
            await batcher.encode(["bad"], Urgency.EMBED)
        assert (await batcher.encode(["4"], Urgency.EMBED)).tolist() == [[4.0]]
        await batcher.ping()


async def test_leaving_cancels_those_who_wait() -> None:
    """Nobody hangs on an encoder that has stopped, and its ping says so."""
    gate = Gate()
    async with EncoderBatcher(gate) as batcher, asyncio.timeout(10):
        held = await gate.hold(batcher)
        waiting = asyncio.create_task(batcher.encode(["1"], Urgency.SEARCH))
        await asyncio.sleep(0)
        gate.open.set()
        batcher._task.cancel() if batcher._task else None
    assert all(
        isinstance(r, asyncio.CancelledError)
        for r in await asyncio.gather(held, waiting, return_exceptions=True)
    )
    with pytest.raises(EncoderStoppedError):
        await batcher.ping()


async def test_long_texts_go_in_small_batches() -> None:
    """A search behind a long one waits for a few of its windows at a time."""
    sizes: list[int] = []

    def encode(sequences: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        sizes.append(len(sequences))
        return np.ones((len(sequences), 2), np.float32)

    async with EncoderBatcher(encode) as batcher, asyncio.timeout(10):
        long, longest = [[7] * 256] * 20, [[7] * 5_000]
        results = await asyncio.gather(
            batcher.encode(long, Urgency.SEARCH), batcher.encode(longest, Urgency.SEARCH)
        )
    assert [len(result) for result in results] == [20, 1]
    assert sizes == [8, 8, 4, 1]
