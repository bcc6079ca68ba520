"""The tokenizer's client against a real server."""

from typing import Any

from mesh.context import RequestContext
from services.gateway.clients.tokenizer import GrpcTokenizer
from services.gateway.domain.request import Message


async def test_ids_in_order(stack: Any) -> None:
    """Texts and conversations become ids, in order."""
    tokenizer = GrpcTokenizer(stack.remotes["tokenizer"].channel)
    assert await tokenizer.encode(["a", "bc"], RequestContext.start(60)) == [(97,), (98, 99)]
    ids = await tokenizer.encode_chat([Message("user", "ü")], RequestContext.start(60))
    assert bytes(ids).decode() == "<user>ü<assistant>"
