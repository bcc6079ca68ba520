"""The tokenizer over gRPC: text to ids and back."""

from collections.abc import Sequence

import grpc

from mesh import rpc
from mesh.context import RequestContext
from mesh.pb import tokenizer_pb2 as pb
from mesh.pb import tokenizer_pb2_grpc as pb_grpc
from services.gateway.clients.field_names import renamed
from services.gateway.domain.generation import ChatPrompt, TokenPiece
from services.gateway.domain.request import Message

CALL_LIMIT_S = 30.0
# sequences that the tokenizer takes in one call
MAX_DECODED = 2048


class GrpcTokenizer:
    """See `ports.Tokenizer`."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = pb_grpc.TokenizerStub(channel)

    async def encode(self, texts: Sequence[str], context: RequestContext) -> list[tuple[int, ...]]:
        """Return token ids per text, with the special tokens that the model starts a text with."""
        request = pb.EncodeRequest(texts=texts, add_special_tokens=True)
        with renamed("prompt"):
            reply = await rpc.call(self._stub.Encode, request, context, limit_s=CALL_LIMIT_S)
        return [tuple(sequence.ids) for sequence in reply.sequences]

    async def encode_chat(
        self,
        messages: Sequence[Message],
        context: RequestContext,
        passages: Sequence[str] | None = None,
    ) -> ChatPrompt:
        """Return the conversation up to where the assistant begins."""
        turns = [pb.ChatMessage(role=m.role, content=m.content, name=m.name) for m in messages]
        request = pb.EncodeChatRequest(messages=turns, add_generation_prompt=True)
        if passages is not None:
            # none at all are told, too
            request.passages.CopyFrom(pb.Passages(texts=passages))
        reply = await rpc.call(self._stub.EncodeChat, request, context, limit_s=CALL_LIMIT_S)
        return ChatPrompt(tuple(reply.prompt.ids), reply.answer_prefix, reply.answer_start)

    async def decode(
        self, sequences: Sequence[Sequence[int]], context: RequestContext
    ) -> list[str]:
        """Return the text of each sequence, special tokens by their names."""
        texts: list[str] = []
        for first in range(0, len(sequences), MAX_DECODED):
            part = sequences[first : first + MAX_DECODED]
            request = pb.DecodeRequest(sequences=[pb.TokenIds(ids=ids) for ids in part])
            reply = await rpc.call(self._stub.Decode, request, context, limit_s=CALL_LIMIT_S)
            texts += reply.texts
        return texts

    async def describe_tokens(
        self, token_ids: Sequence[int], context: RequestContext, text: str | None = None
    ) -> list[TokenPiece]:
        """Return what each token adds by itself, or in the text that they make, and where."""
        request = pb.DescribeTokensRequest(ids=token_ids, text=text)
        reply = await rpc.call(self._stub.DescribeTokens, request, context, limit_s=CALL_LIMIT_S)
        return [TokenPiece(piece.data, piece.name, piece.offset) for piece in reply.pieces]
