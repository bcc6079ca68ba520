"""The gRPC face of the tokenizer: reads requests, checks their sizes, writes answers."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from grpc.aio import ServicerContext
from prometheus_client import Counter, Gauge

from mesh.errors import invalid, unavailable
from mesh.pb import common_pb2 as common
from mesh.pb import tokenizer_pb2 as pb
from mesh.pb.tokenizer_pb2_grpc import TokenizerServicer as Base
from mesh.rpc import request_context
from services.tokenizer.chat import ChatTemplate, Message
from services.tokenizer.checkpoint import Checkpoint
from services.tokenizer.codec import Codec
from services.tokenizer.detokenize import Detokenizer
from services.tokenizer.workers import Workers

Context = ServicerContext[Any, Any]
MAX_TEXTS = 2_048
MAX_DECODE_IDS = 2**20
MAX_DELTA_IDS = 2**16
MAX_STOPS = 64
MAX_STOP_CHARS = 1_024
# ids of one request after which other work gets a turn: about a millisecond
BREATH_IDS = 4_096

_encoded = Counter("infermesh_tokenizer_encoded_tokens_total", "Tokens made of text")
_detokenized = Counter("infermesh_tokenizer_detokenized_tokens_total", "Tokens of streams")
_sequences = Gauge("infermesh_tokenizer_sequences", "Sequences of all streams")


class TokenizerServicer(Base):
    """Serves one checkpoint's vocabulary; keeps state per Detokenize stream only."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        codec: Codec,
        template: ChatTemplate,
        workers: Workers,
        max_text_bytes: int,
    ) -> None:
        self._codec = codec
        self._template = template
        self._workers = workers
        self._max_text_bytes = max_text_bytes
        self._model = common.ModelInfo(
            id=checkpoint.id,
            revision=checkpoint.revision,
            context_length=checkpoint.context_length,
            vocab_size=codec.vocab_size,
            eos_token_ids=codec.eos_token_ids,
        )
        self._streams: set[Detokenizer] = set()
        self._draining = False
        self._idle = asyncio.Event()
        _sequences.set_function(self._live)

    async def Describe(
        self, request: pb.DescribeTokenizerRequest, context: Context
    ) -> pb.DescribeTokenizerResponse:
        """The model and whether it can chat."""
        return pb.DescribeTokenizerResponse(
            model=self._model, has_chat_template=self._template.exists
        )

    async def Encode(self, request: pb.EncodeRequest, context: Context) -> pb.EncodeResponse:
        """The ids of each text."""
        if len(request.texts) > MAX_TEXTS:
            raise invalid("texts", f"texts may hold at most {MAX_TEXTS} texts.")
        size = self._size({f"texts[{i}]": text for i, text in enumerate(request.texts)}, "texts")
        sequences = await self._workers.run(
            request_context(context),
            size,
            self._codec.encode,
            request.texts,
            add_special_tokens=request.add_special_tokens,
        )
        _encoded.inc(sum(map(len, sequences)))
        return pb.EncodeResponse(sequences=[pb.TokenIds(ids=ids) for ids in sequences])

    async def EncodeChat(
        self, request: pb.EncodeChatRequest, context: Context
    ) -> pb.EncodeChatResponse:
        """The rendered chat template and its ids."""
        text, ids = await self._chat(request, context)
        return pb.EncodeChatResponse(prompt=pb.TokenIds(ids=ids), text=text)

    async def Decode(self, request: pb.DecodeRequest, context: Context) -> pb.DecodeResponse:
        """The text of each sequence."""
        if len(request.sequences) > MAX_TEXTS:
            raise invalid("sequences", f"sequences may hold at most {MAX_TEXTS} sequences.")
        sequences = [sequence.ids for sequence in request.sequences]
        size = sum(map(len, sequences))
        if size > MAX_DECODE_IDS:
            raise invalid("sequences", f"sequences may hold at most {MAX_DECODE_IDS} ids.")
        texts = await self._workers.run(
            request_context(context),
            size,
            self._codec.decode,
            sequences,
            skip_special_tokens=request.skip_special_tokens,
        )
        return pb.DecodeResponse(texts=texts)

    async def Count(self, request: pb.CountRequest, context: Context) -> pb.CountResponse:
        """Tokens of a text without special ones, or of a chat as EncodeChat makes it."""
        match request.WhichOneof("input"):
            case "text":
                size = self._size({"text": request.text}, "text")
                work = self._codec.encode
                (ids,) = await self._workers.run(
                    request_context(context), size, work, [request.text], add_special_tokens=False
                )
            case "chat":
                _, ids = await self._chat(request.chat, context)
            case _:
                raise invalid("input", "input must be a text or a chat.")
        return pb.CountResponse(tokens=len(ids))

    async def Detokenize(
        self, requests: AsyncIterator[pb.DetokenizeRequest], context: Context
    ) -> AsyncIterator[pb.DetokenizeResponse]:
        """One response per request, until the caller ends the stream.

        While the process drains, a stream ends once its sequences have ended.
        """
        if self._draining:
            raise unavailable("The tokenizer is shutting down.")
        detokenizer = Detokenizer(self._codec.pieces)
        self._streams.add(detokenizer)
        try:
            async for request in requests:
                yield await _step(detokenizer, request)
                if self._draining and len(detokenizer) == 0:
                    return
        finally:
            self._streams.discard(detokenizer)
            self._check_idle()

    async def drain(self) -> None:
        """Takes no more streams and returns when the sequences of all streams have ended."""
        self._draining = True
        self._check_idle()
        await self._idle.wait()

    async def _chat(self, request: pb.EncodeChatRequest, context: Context) -> tuple[str, list[int]]:
        contents = {f"messages[{i}].content": m.content for i, m in enumerate(request.messages)}
        size = self._size(contents, "messages")
        messages = [Message(m.role, m.content, m.name) for m in request.messages]
        text, ids = await self._workers.run(
            request_context(context), size, self._encode_chat, messages, request
        )
        _encoded.inc(len(ids))
        return text, ids

    def _encode_chat(
        self, messages: Sequence[Message], request: pb.EncodeChatRequest
    ) -> tuple[str, list[int]]:
        text = self._template.render(messages, add_generation_prompt=request.add_generation_prompt)
        # the template has written all special tokens itself
        (ids,) = self._codec.encode([text], add_special_tokens=False)
        return text, ids

    def _size(self, texts: dict[str, str], whole: str) -> int:
        """Characters of all texts; raises INVALID_ARGUMENT where their bytes are too many."""
        total_bytes = 0
        for field, text in texts.items():
            size_bytes = len(text.encode())
            total_bytes += size_bytes
            if total_bytes > self._max_text_bytes:
                at_fault = field if size_bytes > self._max_text_bytes else whole
                raise invalid(
                    at_fault,
                    f"{at_fault} is longer than {self._max_text_bytes} bytes of UTF-8.",
                )
        return sum(map(len, texts.values()))

    def _live(self) -> int:
        return sum(map(len, self._streams))

    def _check_idle(self) -> None:
        if self._draining and not self._live():
            self._idle.set()


async def _step(detokenizer: Detokenizer, request: pb.DetokenizeRequest) -> pb.DetokenizeResponse:
    response = pb.DetokenizeResponse()
    ids = 0
    for i, delta in enumerate(request.deltas):
        _check_delta(i, delta)
        text, stop = detokenizer.push(
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
            )
        ids += len(delta.token_ids)
        if ids >= BREATH_IDS:
            _detokenized.inc(ids)
            ids = 0
            await asyncio.sleep(0)
    _detokenized.inc(ids)
    return response


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
    given = list(stop)
    return len(given) <= MAX_STOPS and all(1 <= len(text) <= MAX_STOP_CHARS for text in given)
