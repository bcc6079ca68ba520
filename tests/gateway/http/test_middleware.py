"""What surrounds every request: keys, ids, errors, limits, drain; and no input makes a 500."""

import asyncio
import json
from typing import Any

import aiohttp
import openai
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mesh.lifecycle import State


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Basic x", "Bearer", "Bearer \u00e9"])
async def test_missing_or_wrong_key(stack: Any, header: str | None) -> None:
    """Every /v1 path asks for a key, before it reads anything."""
    headers = {} if header is None else {"Authorization": header}
    async with aiohttp.ClientSession(headers=headers) as http:
        for method, path in (("GET", "models"), ("POST", "chat/completions"), ("GET", "no")):
            async with http.request(method, f"{stack.url}/v1/{path}") as response:
                body = await response.json()
                assert response.status == 401
                assert body["error"]["code"] == "invalid_api_key"
                assert body["error"]["type"] == "authentication_error"


async def test_official_client_reads_our_errors(stack: Any) -> None:
    """The official client maps our refusals onto its own exceptions."""
    client = stack.client.with_options(api_key="wrong")
    with pytest.raises(openai.AuthenticationError):
        await client.models.list()
    with pytest.raises(openai.BadRequestError) as caught:
        await stack.client.chat.completions.create(**{**stack.body, "temperature": 9})
    assert caught.value.param == "temperature"
    with pytest.raises(openai.NotFoundError) as missing:
        await stack.client.chat.completions.create(**{**stack.body, "model": "gpt-9"})
    assert missing.value.code == "model_not_found"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b'{"model": NaN}',
        b'{"temperature": Infinity}',
        b"[" * 50_000,
        b'{"a":' * 10_000,
        b'{"n": ' + b"9" * 5000 + b"}",
        b"[]",
        b'"x"',
        b"null",
        b"5",
    ],
)
async def test_broken_bodies(stack: Any, raw: bytes) -> None:
    """What is no JSON object is a 400 that names the body."""
    status, _, body = await stack.post("/v1/chat/completions", data=raw)
    assert (status, body["error"]["param"]) == (400, "body")


async def test_content_type_does_not_matter(stack: Any) -> None:
    """JSON is JSON, whatever the client calls it."""
    headers = {"Content-Type": "text/plain"}
    data = json.dumps(stack.body).encode()
    status, _, _ = await stack.post("/v1/chat/completions", data=data, headers=headers)
    assert status == 200


async def test_broken_compression(stack: Any) -> None:
    """A body that is not what its encoding says is a 400."""
    headers = {"Content-Encoding": "gzip"}
    status, _, body = await stack.post("/v1/chat/completions", data=b"{}xx", headers=headers)
    assert status == 400 and "error" in body


async def test_large_body(stack: Any) -> None:
    """A JSON body over the limit is a 413 in OpenAI's shape; one below it is decoded off-loop."""
    big = [{"role": "user", "content": "x" * 300_000}]
    status, _, body = await stack.chat(messages=big)
    assert status == 413 and body["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("GET", "/v1/nothing", 404),
        ("GET", "/", 404),
        ("POST", "/livez", 405),
    ],
)
async def test_wrong_method_or_path(stack: Any, method: str, path: str, status: int) -> None:
    """Unknown paths and methods answer in OpenAI's shape."""
    async with stack.http.request(method, stack.url + path) as response:
        assert response.status == status
        assert (await response.json())["error"]["type"] == "invalid_request_error"
        assert ("Allow" in response.headers) == (status == 405)


@pytest.mark.parametrize(
    ("given_id", "kept"),
    [("abc-1.2_3", True), ("x" * 128, True), ("x" * 129, False), ("a b", False), ("é", False)],
)
async def test_request_ids(stack: Any, given_id: str, kept: bool) -> None:
    """A sane id of the client is kept, another replaced, and every answer has one."""
    status, headers, body = await stack.chat({"x-request-id": given_id})
    assert status == 200
    assert (headers["x-request-id"] == given_id) == kept
    assert body["id"] == "chatcmpl-" + headers["x-request-id"]


async def test_every_answer_has_an_id(stack: Any) -> None:
    """Refusals and probes carry an id too."""
    for path in ("/livez", "/v1/nothing", "/nothing"):
        async with stack.http.get(stack.url + path) as response:
            assert response.headers["x-request-id"]


@pytest.mark.parametrize("value", ["0", "-1", "nan", "soon", ""])
async def test_bad_timeout_header(stack: Any, value: str) -> None:
    """A time limit that is none is refused by the header's name."""
    status, _, body = await stack.chat({"x-request-timeout-s": value})
    assert (status, body["error"]["param"]) == (400, "x-request-timeout-s")


async def test_timeout_header_shortens_the_deadline(stack: Any) -> None:
    """A caller's limit ends the request when the tokenizer has to be asked too late."""
    status, _, body = await stack.chat({"x-request-timeout-s": "1e-9"})
    assert status == 504 and body["error"]["type"] == "timeout_error"


async def test_drain_finishes_what_was_admitted(stack: Any) -> None:
    """A drain refuses new requests, closes their connections, and waits for running streams."""
    go = asyncio.Event()
    stack.generator.words = ["Hel", go, "lo"]
    url, body = stack.url + "/v1/chat/completions", {**stack.body, "stream": True}
    async with stack.http.post(url, json=body) as running:
        stack.lifecycle.advance(State.DRAINING)
        draining = asyncio.create_task(stack.lifecycle.drain())
        status, headers, refusal = await stack.chat()
        assert status == 503 and headers["Connection"] == "close"
        assert headers["Retry-After"] and refusal["error"]["type"] == "service_unavailable"
        async with stack.http.get(stack.url + "/readyz") as response:
            assert response.status == 503
        assert not draining.done()
        go.set()
        assert (await running.read()).endswith(b"data: [DONE]\n\n")
        async with asyncio.timeout(30):
            await draining


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
NAMES = ["model", "messages", "prompt", "input", "stop", "n", "stream", "retrieval", "seed"]
PATHS = ["chat/completions", "completions", "embeddings"]


@hypothesis_settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    path=st.sampled_from(PATHS), change=st.dictionaries(st.sampled_from(NAMES), JSON, max_size=3)
)
async def test_no_body_makes_a_fault(stack: Any, path: str, change: dict[str, Any]) -> None:
    """Any JSON on any endpoint is answered or refused in OpenAI's shape, never by a 500."""
    base = {
        "chat/completions": stack.body,
        "completions": {"model": "tiny", "prompt": "Hi"},
        "embeddings": {"model": "all-MiniLM-L6-v2", "input": "Hi"},
    }[path]
    data = json.dumps({**base, **change}).encode()
    async with stack.http.post(f"{stack.url}/v1/{path}", data=data) as response:
        assert response.status in (200, 400, 404), await response.text()
        if response.status != 200:
            error = (await response.json())["error"]
            assert error["message"] and error["param"]


@hypothesis_settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(raw=st.binary(max_size=200))
async def test_no_bytes_make_a_fault(stack: Any, raw: bytes) -> None:
    """Any bytes are a 400."""
    async with stack.http.post(f"{stack.url}/v1/chat/completions", data=raw) as response:
        assert response.status == 400
