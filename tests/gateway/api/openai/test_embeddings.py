"""Embeddings: what a body may hold, and what the official client reads."""

from typing import Any

import pytest

from mesh.errors import MeshError
from services.gateway.api.openai.embeddings import read_embedding

BAD: list[tuple[dict[str, Any], str]] = [
    ({"input": None}, "input"),
    ({"input": ""}, "input"),
    ({"input": []}, "input"),
    ({"input": [1, 2]}, "input[0]"),
    ({"input": ["a"] * 257}, "input"),
    ({"encoding_format": "hex"}, "encoding_format"),
    ({"dimensions": 3}, "dimensions"),
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
