"""The encoder's batcher: one encoder shared by all callers, small batches, the most urgent first.

Knows nothing of torch or of what the vectors are for.
"""

import asyncio
import enum
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import numpy as np
from prometheus_client import Counter, Histogram

from mesh.errors import Code, MeshError
from services.retriever.document import Vectors
from services.retriever.encoder import Encode
from services.retriever.encoder_tokenizer import TokenIds


class Urgency(enum.IntEnum):
    """Who waits; a search never waits for more than the batch that runs."""

    SEARCH = 0
    EMBED = 1
    INGEST = 2


# texts per batch: what is less urgent holds the encoder for less time
_BATCH_TEXTS = {Urgency.SEARCH: 32, Urgency.EMBED: 16, Urgency.INGEST: 8}
# long texts of any urgency: about half a second of one thread
_BATCH_TOKENS = 2_048
# ingestion is bounded by the number of its workers
_MOST_WAITING_TEXTS = {Urgency.SEARCH: 512, Urgency.EMBED: 4096, Urgency.INGEST: None}
# after so many batches in a row, one goes to the least urgent: nobody waits for ever
_TURNS = 16

_seconds = Histogram(
    "infermesh_retriever_encode_seconds", "Time of one batch in the encoder", ["urgency"]
)
_texts = Counter("infermesh_retriever_encoded_texts_total", "Texts encoded", ["urgency"])
_refused = Counter("infermesh_retriever_encode_refused_total", "Texts refused: too many waited")


class _Ticket:
    """A caller's texts, the vectors that are done and the future of all of them."""

    __slots__ = ("answer", "done", "texts")

    def __init__(self, texts: Sequence[TokenIds], answer: asyncio.Future[Vectors]) -> None:
        self.texts = texts
        self.answer = answer
        self.done: list[Vectors] = []


_Entry = tuple[_Ticket, TokenIds]


class EncoderStoppedError(Exception):
    """Nobody encodes any more."""


class EncoderBatcher:
    """Owns the encoder's thread and the task that feeds it: an async context manager."""

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self._task: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encoder")
        self._waiting: dict[Urgency, deque[tuple[_Ticket, TokenIds]]] = {
            u: deque() for u in Urgency
        }
        self._arrived = asyncio.Event()
        self._turns = 0

    async def encode(self, texts: Sequence[TokenIds], urgency: Urgency) -> Vectors:
        """Return unit vectors [texts, dimensions]; raise RESOURCE_EXHAUSTED when too many wait.

        `texts` are ids of the encoder's tokenizer, at least one text, none over its limit. Leaving
        it takes those that have not run out of the queue.
        """
        assert texts, "nothing to embed. This is a bug."
        most = _MOST_WAITING_TEXTS[urgency]
        queue = self._waiting[urgency]
        if most is not None and len(queue) + len(texts) > most:
            _refused.inc(len(texts))
            raise MeshError(
                Code.RESOURCE_EXHAUSTED, "Too many texts wait for the encoder.", retry_after_s=1.0
            )
        ticket = _Ticket(texts, asyncio.get_running_loop().create_future())
        queue.extend((ticket, text) for text in texts)
        self._arrived.set()
        return await ticket.answer

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="encoder batcher")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Wait for the batch that runs; those who still wait are cancelled."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for queue in self._waiting.values():
            for ticket, _text in queue:
                ticket.answer.cancel()
            queue.clear()
        await asyncio.to_thread(self._thread.shutdown, wait=True)

    async def ping(self) -> None:
        """Raise EncoderStoppedError when nobody encodes."""
        if self._task is None or self._task.done():
            raise EncoderStoppedError

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            urgency, batch = self._next()
            if batch:
                await self._encode_batch(urgency, batch)
            elif not any(self._waiting.values()):
                self._arrived.clear()

    async def _encode_batch(self, urgency: Urgency, batch: list[_Entry]) -> None:
        loop = asyncio.get_running_loop()
        texts = [text for _, text in batch]
        try:
            with _seconds.labels(urgency.name).time():
                vectors = await loop.run_in_executor(self._thread, self._encode, texts)
        except asyncio.CancelledError:
            for ticket, _ in batch:
                ticket.answer.cancel()
            raise
        except Exception as error:
            # each of those who wait deals with it
            for ticket, _ in batch:
                if not ticket.answer.done():
                    ticket.answer.set_exception(error)
            return
        _texts.labels(urgency.name).inc(len(batch))
        for (ticket, _), vector in zip(batch, vectors, strict=True):
            _add(ticket, vector)

    def _next(self) -> tuple[Urgency, list[_Entry]]:
        """Return the batch to run now; empty when nobody waits."""
        waiting = [u for u in Urgency if self._waiting[u]]
        if not waiting:
            return Urgency.SEARCH, []
        self._turns = self._turns + 1 if len(waiting) > 1 else 0
        last = self._turns >= _TURNS
        urgency = waiting[-1 if last else 0]
        if last:
            self._turns = 0
        return urgency, self._take(urgency)

    def _take(self, urgency: Urgency) -> list[_Entry]:
        queue = self._waiting[urgency]
        batch: list[_Entry] = []
        num_tokens = 0
        while queue and len(batch) < _BATCH_TEXTS[urgency]:
            ticket, text = queue[0]
            # a caller that left is not worth the time
            if not ticket.answer.done():
                num_tokens += len(text)
                if batch and num_tokens > _BATCH_TOKENS:
                    break
                batch.append((ticket, text))
            queue.popleft()
        return batch


def _add(ticket: _Ticket, vector: Vectors) -> None:
    ticket.done.append(vector)
    if len(ticket.done) == len(ticket.texts) and not ticket.answer.done():
        ticket.answer.set_result(np.stack(ticket.done))
