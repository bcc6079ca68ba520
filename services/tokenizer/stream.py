"""The Detokenize call: one caller's requests in, as many responses out."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from prometheus_client import Counter

from mesh.errors import MeshError, invalid
from mesh.pb import tokenizer_pb2 as pb
from services.tokenizer.detokenize import PLAIN, Added, Detokenizer, TextOptions

MAX_DELTA_IDS = 2**16
MAX_STOPS = 64
MAX_STOP_CHARS = 1_024
MAX_PREFIX_CHARS = 1_024
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
            sequence_id, token_ids = delta.sequence_id, delta.token_ids
            if len(token_ids) > MAX_DELTA_IDS:
                raise _out_of_limits(i, "token_ids", f"at most {MAX_DELTA_IDS} ids")
            options = PLAIN if sequence_id in self.detokenizer else _options(i, delta)
            added = self.detokenizer.push(sequence_id, token_ids, options, final=delta.final)
            if added.text or added.stop is not None or added.tokens:
                _add(response, sequence_id, added)
            ids += len(token_ids)
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


def _options(i: int, delta: pb.DetokenizeDelta) -> TextOptions:
    """Return what the first delta of a sequence asks for; raise INVALID_ARGUMENT."""
    options = TextOptions(
        tuple(delta.stop),
        delta.include_stop,
        delta.min_tokens,
        delta.skip_prefix,
        delta.describe_tokens,
    )
    if not _usable(options.stop):
        limits = f"at most {MAX_STOPS} strings of 1 to {MAX_STOP_CHARS} characters each"
        raise _out_of_limits(i, "stop", limits)
    if len(options.skip_prefix) > MAX_PREFIX_CHARS:
        raise _out_of_limits(i, "skip_prefix", f"at most {MAX_PREFIX_CHARS} characters")
    return options


def _usable(stop: Sequence[str]) -> bool:
    return len(stop) <= MAX_STOPS and all(1 <= len(text) <= MAX_STOP_CHARS for text in stop)


def _out_of_limits(i: int, field: str, limits: str) -> MeshError:
    name = f"deltas[{i}].{field}"
    return invalid(name, f"{name} may hold {limits}.")


def _add(response: pb.DetokenizeResponse, sequence_id: str, added: Added) -> None:
    delta = response.deltas.add(sequence_id=sequence_id, text=added.text)
    if added.stop is not None:
        delta.stopped = True
        delta.stop_string = added.stop
        delta.unused_tokens = added.num_unused
    for data, name, offset in added.tokens:
        delta.tokens.add(data=data, name=name, offset=offset)
