"""A full queue refuses before any work, and only what the cache does not hold."""

import time
from typing import Any

import pytest

from services.gateway.generation.job import Job

RAG = {"retrieval": {"collection": "docs", "top_k": 3}}


@pytest.fixture
def settings(settings: Any, request: pytest.FixtureRequest) -> Any:
    """One job fills the queue, or a few tokens."""
    if "more_tokens" in request.node.name:
        return settings.model_copy(update={"max_waiting_tokens": 60})
    return settings.model_copy(update={"max_waiting": 1})


def fill(stack: Any) -> None:
    """Let one job wait for a replica without room."""
    stack.queue.submit(Job("filler", stack.generator.served[0], 10, 10, arrived=0.0))


def work(stack: Any) -> tuple[int, ...]:
    """Return the calls to every other service so far."""
    searches, requests = stack.retriever.searches, stack.generator.requests
    return stack.tokenizer.calls, stack.cache.lookups, len(searches), len(requests)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_hundred_refusals_cost_no_call(stack: Any, stream: bool) -> None:
    """No refused request reaches another service, and each is told when to try again."""
    await stack.chat(temperature=1)
    fill(stack)
    before = work(stack)
    text = {"model": "tiny", "prompt": ["Hi", [1, 2]][stream], "stream": stream}
    started = time.perf_counter()
    for i in range(100):
        if i % 2:
            status, headers, body = await stack.post("/v1/completions", text)
        else:
            status, headers, body = await stack.chat(stream=stream, **(RAG if i % 4 else {}))
        assert (status, body["error"]["type"]) == (429, "rate_limit_error")
        assert headers["Retry-After"] == "1"
    print(f"a refusal took {(time.perf_counter() - started) * 10:.2f} ms")
    assert work(stack) == before
    stack.queue.ended("filler")
    assert (await stack.chat())[0] == 200


async def test_what_was_answered_before_is_found_without_tokenizing(stack: Any) -> None:
    """With the queue full, a remembered request costs one lookup; another priority is the same."""
    await stack.chat()
    await stack.lifecycle.drain()
    fill(stack)
    before = work(stack)
    for extra in ({}, {"priority": 5}, {"stream": True}):
        body = {**stack.body, **extra}
        async with stack.http.post(stack.url + "/v1/chat/completions", json=body) as response:
            assert response.status == 200
            assert response.headers["x-infermesh-cache"] == "hit"
            assert "Hel" in await response.text()
    tokenized, lookups, *others = before
    assert work(stack) == (tokenized, lookups + 3, *others)


async def test_what_the_cache_lost_is_refused(stack: Any) -> None:
    """A remembered request whose answer is gone has no place like any other."""
    await stack.chat()
    await stack.lifecycle.drain()
    stack.cache.answers.clear()
    fill(stack)
    assert (await stack.chat())[0] == 429
    assert stack.tokenizer.calls == 1


@pytest.mark.parametrize(
    ("extra", "headers"),
    [
        (RAG, {}),
        ({"cache": "no-store"}, {}),
        ({}, {"Cache-Control": "no-cache"}),
        ({}, {"Authorization": "Bearer another-key"}),
        ({"max_tokens": 9}, {}),
    ],
)
async def test_other_requests_are_refused(
    stack: Any, extra: dict[str, Any], headers: dict[str, str]
) -> None:
    """Passages, a wish for a fresh answer, another tenant or another field do not find it."""
    await stack.chat()
    await stack.chat(**RAG)
    await stack.lifecycle.drain()
    fill(stack)
    assert (await stack.chat(headers, **extra))[0] == 429


async def test_an_echo_of_texts_is_found_whole(stack: Any) -> None:
    """The repeated prompt is the request's own, so a hit needs no tokenizer for it."""
    body = {"model": "tiny", "prompt": "abc", "echo": True, "temperature": 0}
    first = await stack.post("/v1/completions", body)
    await stack.lifecycle.drain()
    fill(stack)
    status, _, again = await stack.post("/v1/completions", body)
    assert status == 200 and again["choices"] == first[2]["choices"]
    assert again["choices"][0]["text"] == "abcHello you"


async def test_more_tokens_than_estimated_may_be_refused(stack: Any) -> None:
    """A prompt that turns out to pass the queue's bound is refused before it is generated."""
    status, _, body = await stack.chat(
        messages=[{"role": "user", "content": "x" * 40}], max_tokens=10
    )
    assert (status, body["error"]["code"]) == (429, "rate_limit_exceeded")
    assert stack.tokenizer.calls == 1 and not stack.generator.requests
