"""Embeddings: what a body may hold, and what the official client reads."""

from typing import Any

import pytest

from mesh.errors import MeshError
from mesh.pb import retriever_pb2
from services.gateway.api.openai.embeddings import read_embedding

BAD: list[tuple[dict[str, Any], str]] = [
    ({"input": None}, "input"),
    ({"input": ""}, "input"),
    ({"input": []}, "input"),
    ({"input": [1, "a"]}, "input[1]"),
    ({"input": ["a", 1]}, "input[1]"),
    ({"input": [[1], [-1]]}, "input[1][0]"),
    ({"input": [[1], []]}, "input[1]"),
    ({"input": ["a"] * 2049}, "input"),
    ({"truncate": "yes"}, "truncate"),
    ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
    ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
    ({"truncate_prompt_tokens": 5, "truncate": True}, "truncate"),
    ({"encoding_format": "hex"}, "encoding_format"),
    ({"dimensions": 0}, "dimensions"),
    ({"model": None}, "model"),
    ({"dim": 1}, "dim"),
]


@pytest.mark.parametrize(("change", "field"), BAD, ids=str)
def test_bad_embedding_names_the_field(change: dict[str, Any], field: str) -> None:
    """Every bad embedding field is an INVALID_ARGUMENT that names it."""
    with pytest.raises(MeshError) as caught:
        read_embedding({"model": "m", "input": "Hi", **change})
    assert caught.value.field == field


@pytest.mark.parametrize("encoding", ["float", "base64"])
async def test_embeddings(stack: Any, encoding: str) -> None:
    """The official client reads both encodings to the same vectors, in order."""
    extra = {} if encoding == "base64" else {"encoding_format": "float"}
    answer = await stack.client.embeddings.create(
        model="all-MiniLM-L6-v2", input=["a", "bcd"], **extra
    )
    assert [list(d.embedding) for d in answer.data] == [[1.0, 0.5], [3.0, 0.5]]
    assert [d.index for d in answer.data] == [0, 1]
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (7, 7)


async def test_embeddings_of_another_model(stack: Any) -> None:
    """Only the encoder embeds."""
    status, _, body = await stack.post("/v1/embeddings", {"model": "tiny", "input": "x"})
    assert (status, body["error"]["code"]) == (404, "model_not_found")


async def test_token_ids_and_a_cut_reach_the_encoder(stack: Any) -> None:
    """As they are given; usage tells what was left out."""
    body = {"model": "all-MiniLM-L6-v2", "input": [[5, 6], [7]], "truncate_prompt_tokens": 8}
    status, _, answer = await stack.post("/v1/embeddings", body)
    assert status == 200 and len(answer["data"]) == 2
    request = stack.retriever.embedded[-1]
    assert [list(tokens.ids) for tokens in request.token_ids] == [[5, 6], [7]]
    assert (request.truncation, request.max_tokens) == (retriever_pb2.TRUNCATION_START, 8)
    assert answer["usage"]["prompt_tokens_details"] == {"truncated_tokens": 3}
    body = {"model": "all-MiniLM-L6-v2", "input": "x", "truncate": True, "dimensions": 2}
    assert (await stack.post("/v1/embeddings", body))[0] == 200
    assert stack.retriever.embedded[-1].truncation == retriever_pb2.TRUNCATION_END
    status, _, answer = await stack.post("/v1/embeddings", {**body, "dimensions": 3})
    assert (status, answer["error"]["param"]) == (400, "dimensions")


@pytest.mark.parametrize(("texts", "param"), [("long", "input"), (["a", "long"], "input[1]")])
async def test_a_text_over_the_limit_is_named(stack: Any, texts: Any, param: str) -> None:
    """In the words of the request."""
    body = {"model": "all-MiniLM-L6-v2", "input": texts}
    status, _, answer = await stack.post("/v1/embeddings", body)
    assert (status, answer["error"]["param"]) == (400, param)
    assert answer["error"]["message"] == f"{param} has 300 tokens; the encoder reads at most 256."
