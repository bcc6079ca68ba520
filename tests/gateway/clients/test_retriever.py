"""The retriever's client against a real server."""

from typing import Any

import pytest

from mesh.context import RequestContext
from mesh.errors import Code, MeshError
from services.gateway.clients.retriever import GrpcRetriever


async def test_retriever_refusals_name_our_fields(stack: Any) -> None:
    """What the retriever calls `collection` is `retrieval.collection` in a chat."""
    retriever = GrpcRetriever(stack.remotes["retriever"].channel)
    with pytest.raises(MeshError) as caught:
        await retriever.search("nowhere", "q", 1, RequestContext.start(60))
    assert (caught.value.code, caught.value.field) == (Code.NOT_FOUND, "retrieval.collection")
