"""The gRPC face of the tokenizer: reads requests, checks their sizes, writes answers."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any

from grpc.aio import ServicerContext
from prometheus_client import Counter, Gauge

from mesh.errors import invalid, unavailable
from mesh.pb import common_pb2 as common
from mesh.pb import tokenizer_pb2 as pb
from mesh.pb import tokenizer_pb2_grpc as pb_grpc
from mesh.rpc import request_context
from services.tokenizer.chat import Message
from services.tokenizer.chat_encoder import ChatEncoder, ChatPrompt
from services.tokenizer.checkpoint import Checkpoint
from services.tokenizer.codec import Codec
from services.tokenizer.describe import TokenDescriber
from services.tokenizer.detokenize import Detokenizer
from services.tokenizer.spans import TokenPiece
from services.tokenizer.stream import DetokenizeStream
from services.tokenizer.workers import Workers

Context = ServicerContext[Any, Any]
Describe = Callable[[Sequence[int]], list[TokenPiece]]
MAX_TEXTS = 2_048
MAX_DECODE_IDS = 2**20

_encoded = Counter("infermesh_tokenizer_encoded_tokens_total", "Tokens made of text")
_sequences = Gauge("infermesh_tokenizer_sequences", "Sequences of all streams")


class TokenizerServicer(pb_grpc.TokenizerServicer):
    """Serves one checkpoint's vocabulary; keeps state per Detokenize stream only."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        codec: Codec,
        chat: ChatEncoder,
        workers: Workers,
        max_text_bytes: int,
    ) -> None:
        self._codec = codec
        self._describer = TokenDescriber(codec.pieces)
        self._chat_encoder = chat
        self._workers = workers
        self._max_text_bytes = max_text_bytes
        self._model = common.ModelInfo(
            id=checkpoint.id,
            revision=checkpoint.revision,
            context_length=checkpoint.context_length,
            vocab_size=codec.vocab_size,
            eos_token_ids=codec.eos_token_ids,
        )
        self._streams: set[DetokenizeStream] = set()
        self._draining = False
        self._idle = asyncio.Event()
        _sequences.set_function(self._live)

    async def Describe(
        self, request: pb.DescribeTokenizerRequest, context: Context
    ) -> pb.DescribeTokenizerResponse:
        """Return the model and whether it can chat."""
        return pb.DescribeTokenizerResponse(
            model=self._model, has_chat_template=self._chat_encoder.has_template
        )

    async def Encode(self, request: pb.EncodeRequest, context: Context) -> pb.EncodeResponse:
        """Return the ids of each text."""
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
        """Return the rendered chat template and its ids."""
        prompt = await self._chat(request, context)
        return pb.EncodeChatResponse(
            prompt=pb.TokenIds(ids=prompt.ids),
            text=prompt.text,
            answer_prefix=prompt.answer_prefix,
            answer_start=prompt.answer_start,
        )

    async def Decode(self, request: pb.DecodeRequest, context: Context) -> pb.DecodeResponse:
        """Return the text of each sequence."""
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

    async def DescribeTokens(
        self, request: pb.DescribeTokensRequest, context: Context
    ) -> pb.DescribeTokensResponse:
        """Return what each token adds to a text, and where in the given text it begins."""
        ids, size = request.ids, len(request.ids)
        if size > MAX_DECODE_IDS:
            raise invalid("ids", f"ids may hold at most {MAX_DECODE_IDS} ids.")
        if ids and max(ids) >= self._codec.vocab_size:
            raise invalid("ids", f"ids must be below the vocabulary of {self._codec.vocab_size}.")
        if request.HasField("text"):
            size += self._size({"text": request.text}, "text")
            describe: Describe = partial(self._describer.within, text=request.text)
        else:
            describe = self._describer.each
        return await self._workers.run(request_context(context), size, _described, describe, ids)

    async def Count(self, request: pb.CountRequest, context: Context) -> pb.CountResponse:
        """Count the tokens of a text without special ones, or of a chat as EncodeChat makes it."""
        match request.WhichOneof("input"):
            case "text":
                size = self._size({"text": request.text}, "text")
                work = self._codec.encode
                (ids,) = await self._workers.run(
                    request_context(context), size, work, [request.text], add_special_tokens=False
                )
            case "chat":
                ids = (await self._chat(request.chat, context)).ids
            case _:
                raise invalid("input", "input must be a text or a chat.")
        return pb.CountResponse(tokens=len(ids))

    async def Detokenize(
        self, requests: AsyncIterator[pb.DetokenizeRequest], context: Context
    ) -> AsyncIterator[pb.DetokenizeResponse]:
        """Yield one response per request, until the caller ends the stream.

        While the process drains, a stream ends once its sequences have ended.
        """
        if self._draining:
            raise unavailable("The tokenizer is shutting down.")
        stream = DetokenizeStream(Detokenizer(self._codec.pieces), requests)
        self._streams.add(stream)
        try:
            while (request := await stream.next()) is not None:
                yield await stream.step(request)
                if self._draining and len(stream.detokenizer) == 0:
                    return
        finally:
            self._streams.discard(stream)
            self._check_idle()

    async def drain(self) -> None:
        """Take no more streams, end idle ones, and return when all sequences have ended."""
        self._draining = True
        for stream in self._streams:
            stream.end_if_idle()
        self._check_idle()
        await self._idle.wait()

    async def _chat(self, request: pb.EncodeChatRequest, context: Context) -> ChatPrompt:
        if len(request.messages) > MAX_TEXTS:
            raise invalid("messages", f"messages may hold at most {MAX_TEXTS} messages.")
        if len(request.passages.texts) > MAX_TEXTS:
            raise invalid("passages", f"passages may hold at most {MAX_TEXTS} texts.")
        texts = {f"messages[{i}].content": m.content for i, m in enumerate(request.messages)}
        texts |= {f"messages[{i}].name": m.name for i, m in enumerate(request.messages)}
        passages = request.passages.texts if request.HasField("passages") else None
        texts |= {f"passages.texts[{i}]": text for i, text in enumerate(passages or ())}
        size = self._size(texts, "messages")
        messages = [Message(m.role, m.content, m.name) for m in request.messages]
        prompt = await self._workers.run(
            request_context(context),
            size,
            self._chat_encoder.encode,
            messages,
            add_generation_prompt=request.add_generation_prompt,
            passages=passages,
        )
        _encoded.inc(len(prompt.ids))
        return prompt

    def _size(self, texts: dict[str, str], whole: str) -> int:
        """Return the characters of all texts; raise INVALID_ARGUMENT for too many bytes."""
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
        return sum(len(stream.detokenizer) for stream in self._streams)

    def _check_idle(self) -> None:
        if self._draining and not self._live():
            self._idle.set()


def _described(describe: Describe, ids: Sequence[int]) -> pb.DescribeTokensResponse:
    return pb.DescribeTokensResponse(
        pieces=[
            pb.TokenPiece(data=data, name=name, offset=offset)
            for data, name, offset in describe(ids)
        ]
    )
