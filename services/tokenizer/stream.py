"""The Detokenize call: one caller's requests in, as many responses out."""

import asyncio
from collections.abc import AsyncIterator, Iterable

from prometheus_client import Counter

from mesh.errors import invalid
from mesh.pb import tokenizer_pb2 as pb
from services.tokenizer.detokenize import Detokenizer

MAX_DELTA_IDS = 2**16
MAX_STOPS = 64
MAX_STOP_CHARS = 1_024
# ids of one request after which other work gets a turn: about a millisecond
BREATH_IDS = 4_096

_detokenized = Counter("infermesh_tokenizer_detokenized_tokens_total", "Tokens of streams")


class DetokenizeStream:
    """One Detokenize call; waiting for its next request can be ended from outside."""

    def __init__(
        self, detokenizer: Detokenizer, requests: AsyncIterator[pb.DetokenizeRequest]
    ) -> None:
        self.detokenizer = detokenizer
        self._requests = requests
        self._reading: asyncio.Timeout | None = None

    async def next(self) -> pb.DetokenizeRequest | None:
        """Return the next request; None when no more come or `end_if_idle` was called."""
        try:
            async with asyncio.timeout(None) as self._reading:
                return await anext(self._requests, None)
        except TimeoutError:
            return None
        finally:
            self._reading = None

    async def step(self, request: pb.DetokenizeRequest) -> pb.DetokenizeResponse:
        """Return what one engine step adds; raise INVALID_ARGUMENT for a delta out of limits."""
        response = pb.DetokenizeResponse()
        ids = 0
        for i, delta in enumerate(request.deltas):
            _check_delta(i, delta)
            text, stop, num_unused = self.detokenizer.push(
                delta.sequence_id,
                delta.token_ids,
                final=delta.final,
                stop=delta.stop,
                include_stop=delta.include_stop,
            )
            if text or stop is not None:
                response.deltas.add(
                    sequence_id=delta.sequence_id,
                    text=text,
                    stopped=stop is not None,
                    stop_string=stop or "",
                    unused_tokens=num_unused,
                )
            ids += len(delta.token_ids)
            if ids >= BREATH_IDS:
                _detokenized.inc(ids)
                ids = 0
                await asyncio.sleep(0)
        _detokenized.inc(ids)
        return response

    def end_if_idle(self) -> None:
        """End the call, if it waits for a request and no sequence is underway."""
        if self._reading is not None and len(self.detokenizer) == 0:
            self._reading.reschedule(asyncio.get_running_loop().time())


def _check_delta(i: int, delta: pb.DetokenizeDelta) -> None:
    if len(delta.token_ids) > MAX_DELTA_IDS:
        raise invalid(
            f"deltas[{i}].token_ids",
            f"deltas[{i}].token_ids may hold at most {MAX_DELTA_IDS} ids.",
        )
    if delta.stop and not _usable(delta.stop):
        raise invalid(
            f"deltas[{i}].stop",
            f"deltas[{i}].stop may hold at most {MAX_STOPS} strings of 1 to {MAX_STOP_CHARS} "
            "characters each.",
        )


def _usable(stop: Iterable[str]) -> bool:
    stops = list(stop)
    return len(stops) <= MAX_STOPS and all(1 <= len(text) <= MAX_STOP_CHARS for text in stops)
