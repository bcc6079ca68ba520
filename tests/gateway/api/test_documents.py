"""Documents and collections over HTTP."""

from typing import Any

import aiohttp
import pytest


async def test_a_document_is_queued(stack: Any) -> None:
    """The raw body reaches the retriever with its name; a form's type means nothing."""
    status, _, body = await stack.post(
        "/v1/collections/docs/documents?source=mill%20one.md",
        data=b"\x00text",
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    assert status == 202
    assert body == {"ingestion_id": "i1", "document_id": "d1", "status": "queued"}
    request = stack.retriever.ingested[0]
    assert (request.collection, request.source) == ("docs", "mill one.md")
    assert (request.media_type, request.content) == ("", b"\x00text")


async def test_a_media_type_is_passed_on(stack: Any) -> None:
    """A type that says something is kept, with the charset that reads the body."""
    headers = {"Content-Type": "text/html; charset=utf-8"}
    path = "/v1/collections/docs/documents?source=a"
    await stack.post(path, data=b"x", headers=headers)
    assert stack.retriever.ingested[0].media_type == headers["Content-Type"]


@pytest.mark.parametrize(
    ("path", "data", "status", "param"),
    [
        ("docs/documents", b"x", 400, "source"),
        ("docs/documents?source=%0a", b"x", 400, "source"),
        ("docs/documents?source=%ff", b"x", 202, None),
        ("docs/documents?source=" + "a" * 513, b"x", 400, "source"),
        ("docs/documents?source=a", b"", 400, "body"),
        ("bad%20name/documents?source=a", b"x", 400, "collection"),
        ("%20/documents?source=a", b"x", 400, "collection"),
    ],
)
async def test_bad_documents(
    stack: Any, path: str, data: bytes, status: int, param: str | None
) -> None:
    """What cannot be indexed is refused by its field's name."""
    got, _, body = await stack.post(f"/v1/collections/{path}", data=data)
    assert got == status
    assert body.get("error", {}).get("param") == param


async def test_large_document_is_refused_while_it_arrives(stack: Any, settings: Any) -> None:
    """A body over the limit is a 413 in OpenAI's shape, declared or not."""

    async def endless() -> Any:
        while True:
            yield b"x" * 65536

    path = f"{stack.url}/v1/collections/docs/documents?source=a"
    async with stack.http.post(path, data=endless()) as response:
        assert response.status == 413
        assert (await response.json())["error"]["type"] == "invalid_request_error"


async def test_ingestion_status(stack: Any) -> None:
    """An ingestion tells its state; an unknown one is a 404."""
    async with stack.http.get(stack.url + "/v1/ingestions/i1") as response:
        assert await response.json() == {
            "id": "i1",
            "status": "indexed",
            "passages": 3,
            "error": None,
        }
    async with stack.http.get(stack.url + "/v1/ingestions/i2") as response:
        assert response.status == 404
        assert (await response.json())["error"]["message"] == "No such ingestion."


async def test_collections(stack: Any) -> None:
    """Collections are listed with their sizes."""
    async with stack.http.get(stack.url + "/v1/collections") as response:
        body = await response.json()
    assert body["data"] == [{"name": "docs", "documents": 1, "passages": 3}]


async def test_documents_and_collections_are_deleted(stack: Any) -> None:
    """A document by its name or its id; the answers are OpenAI's deletion objects."""
    path = "/v1/collections/docs"
    headers = {"Authorization": "Bearer a-key-for-development"}
    expected = [
        (f"{path}/documents?source=a%20b.md", 200, {"id": "d1", "object": "document.deleted"}),
        (f"{path}/documents/d7", 200, {"id": "d7", "object": "document.deleted"}),
        (path, 200, {"id": "docs", "object": "collection.deleted"}),
        (f"{path}/documents?source=none", 404, "source"),
        (f"{path}/documents", 400, "source"),
    ]
    async with aiohttp.ClientSession(f"http://127.0.0.1:{stack.port}", headers=headers) as http:
        for target, status, told in expected:
            async with http.delete(target) as answer:
                body = await answer.json()
                assert answer.status == status
                if status == 200:
                    assert body == {**told, "deleted": True}
                else:
                    assert body["error"]["param"] == told
    sources = [getattr(request, "source", "") for request in stack.retriever.deleted]
    assert sources == ["a b.md", "", "", "none"]
