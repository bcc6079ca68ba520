"""The tokenizer's client against a real server."""

from typing import Any

from mesh.context import RequestContext
from services.gateway.clients.tokenizer import GrpcTokenizer
from services.gateway.domain.generation import TokenPiece
from services.gateway.domain.request import Message


async def test_ids_in_order(stack: Any) -> None:
    """Texts and conversations become ids, in order."""
    tokenizer = GrpcTokenizer(stack.remotes["tokenizer"].channel)
    assert await tokenizer.encode(["a", "bc"], RequestContext.start(60)) == [(97,), (98, 99)]
    prompt = await tokenizer.encode_chat([Message("user", "ü")], RequestContext.start(60))
    assert bytes(prompt.token_ids).decode() == "<user>ü<assistant>"


async def test_tokens_are_described(stack: Any) -> None:
    """By themselves, or in a text, which may be empty."""
    tokenizer = GrpcTokenizer(stack.remotes["tokenizer"].channel)
    context = RequestContext.start(60)
    alone = await tokenizer.describe_tokens([97, 195], context)
    assert alone == [TokenPiece(b"a"), TokenPiece(b"\xc3")]
    within = await tokenizer.describe_tokens([97, 98], context, "ab")
    assert within == [TokenPiece(b"a", offset=0), TokenPiece(b"b", offset=1)]
    assert await tokenizer.describe_tokens([98, 98], context, "") == [
        TokenPiece(b"b", offset=0),
        TokenPiece(b"b", offset=1),
    ]
