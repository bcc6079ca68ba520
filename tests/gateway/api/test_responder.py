"""How an answer fails, before its first byte and after; how a silent one keeps its connection."""

import asyncio
import json
from typing import Any

import openai
import pytest

from mesh.errors import Code, MeshError


@pytest.fixture
def settings(settings: Any, request: pytest.FixtureRequest) -> Any:
    """The keep-alive test need not wait for 15 s."""
    if "keep_alive" in request.node.name:
        return settings.model_copy(update={"keep_alive_s": 0.05})
    return settings


@pytest.mark.parametrize("stream", [False, True])
async def test_failure_before_the_first_token_is_a_status(stack: Any, stream: bool) -> None:
    """A full queue is a 429 with Retry-After in both forms."""
    stack.generator.words = [MeshError(Code.RESOURCE_EXHAUSTED, "Full.", retry_after_s=2.5)]
    status, headers, body = await stack.chat(stream=stream)
    assert status == 429 and headers["Retry-After"] == "3"
    assert body["error"] == {
        "message": "Full.",
        "type": "rate_limit_error",
        "param": None,
        "code": "rate_limit_exceeded",
    }


async def test_failure_in_the_middle_is_an_event(stack: Any) -> None:
    """A stream that breaks says so and ends without [DONE]; faults of ours stay unnamed."""
    stack.generator.words = ["Hel", MeshError(Code.UNAVAILABLE, "A replica was lost.")]
    stream = await stack.client.chat.completions.create(**stack.body, stream=True)
    with pytest.raises(openai.APIError, match="A replica was lost"):
        [chunk async for chunk in stream]
    stack.generator.words = ["Hel", RuntimeError("secret")]
    body = {**stack.body, "stream": True, "cache": "no-store"}
    async with stack.http.post(stack.url + "/v1/chat/completions", json=body) as response:
        text = (await response.read()).decode()
    assert "Internal error." in text and "secret" not in text and "[DONE]" not in text


async def test_internal_texts_stay_inside(stack: Any) -> None:
    """A fault in another service is a 500 that tells nothing."""
    messages = [{"role": "user", "content": "fail"}]
    status, _, body = await stack.chat(messages=messages)
    assert status == 500 and "secret" not in json.dumps(body)
    assert body["error"]["type"] == "server_error"


async def test_keep_alive_opens_a_silent_stream(stack: Any) -> None:
    """While nothing comes, a comment keeps the connection; the answer follows it."""
    go = asyncio.Event()
    stack.generator.words = [go, "Hi"]
    body = {**stack.body, "stream": True}
    async with stack.http.post(stack.url + "/v1/chat/completions", json=body) as response:
        async with asyncio.timeout(30):
            assert await response.content.readline() == b": keep-alive\n"
        go.set()
        assert (await response.read()).endswith(b"data: [DONE]\n\n")
