"""Chat and text completions through the official client, plain and streamed."""

import asyncio
import json
from typing import Any

import openai
import pytest

from mesh.errors import Code, MeshError


async def test_chat_plain(stack: Any) -> None:
    """A chat answers with text, reason, usage, and the ids that OpenAI's client reads."""
    raw = await stack.client.chat.completions.with_raw_response.create(
        model="tiny", messages=[{"role": "user", "content": "Hi"}], max_tokens=5
    )
    answer = raw.parse()
    assert answer.choices[0].message.content == "Hello you"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == 3
    assert answer.usage.prompt_tokens == len("<user>Hi<assistant>")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 3
    assert answer.usage.prompt_tokens_details.cached_tokens == 3
    assert answer.system_fingerprint == "fp_0123456789"
    assert answer.id == "chatcmpl-" + raw.headers["x-request-id"]
    assert answer.object == "chat.completion"
    assert raw.headers["x-infermesh-cache"] == "bypass"


async def test_chat_stream(stack: Any) -> None:
    """A streamed chat opens with the role, ends with the reason, and gives usage when asked."""
    stream = await stack.client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "Hi"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    said = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert said == "Hello you"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 3
    assert all(c.usage is None for c in chunks[:-1])
    assert len({c.id for c in chunks}) == 1


async def test_stream_bytes(stack: Any) -> None:
    """The stream is SSE with one JSON per event and [DONE] at its end; usage is absent unasked."""
    body = {**stack.body, "stream": True}
    async with stack.http.post(stack.url + "/v1/chat/completions", json=body) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        text = (await response.read()).decode()
    events = text.removesuffix("\n\n").split("\n\n")
    assert events[-1] == "data: [DONE]"
    assert all(event.startswith("data: ") for event in events)
    chunks = [json.loads(event[6:]) for event in events[:-1]]
    assert all("usage" not in chunk and "citations" not in chunk for chunk in chunks)


@pytest.mark.parametrize(
    ("prompt", "count"),
    [("Hi", 1), (["Hi", "Ho"], 2), ([1, 2, 3], 1), ([[1, 2], [3]], 2)],
)
async def test_text_completion_prompts(stack: Any, prompt: Any, count: int) -> None:
    """A prompt is a text, texts, ids, or lists of ids; each gets its choice by index."""
    answer = await stack.client.completions.create(model="tiny", prompt=prompt)
    assert [c.index for c in answer.choices] == list(range(count))
    assert {c.text for c in answer.choices} == {"Hello you"}
    assert answer.usage.completion_tokens == 3 * count
    assert answer.object == "text_completion"


async def test_text_completion_stream(stack: Any) -> None:
    """Streams of several prompts are told apart by index."""
    stream = await stack.client.completions.create(
        model="tiny", prompt=["a", "b"], stream=True, stream_options={"include_usage": True}
    )
    texts = {0: "", 1: ""}
    reasons = []
    async for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            reasons += [choice.finish_reason] if choice.finish_reason else []
    assert texts == {0: "Hello you", 1: "Hello you"}
    assert reasons == ["stop", "stop"]
    assert chunk.usage.completion_tokens == 6


async def test_n_choices_count_the_prompt_once(stack: Any) -> None:
    """n choices differ by seed, and their shared prompt is counted once."""
    answer = await stack.client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "Hi"}], n=3, seed=7
    )
    assert len(answer.choices) == 3
    assert sorted(r.sampling.seed for r in stack.generator.requests) == [7, 8, 9]
    assert answer.usage.prompt_tokens == len("<user>Hi<assistant>")
    assert answer.usage.completion_tokens == 9


async def test_sampling_reaches_the_generator(stack: Any) -> None:
    """Sampling fields arrive as they were sent; a greedy request forgets what cannot matter."""
    extra = {
        "temperature": 0.5,
        "top_p": 0.25,
        "top_k": 3,
        "seed": 11,
        "max_completion_tokens": 9,
        "min_tokens": 2,
        "ignore_eos": True,
        "stop_token_ids": [5],
        "stop": ["a", "b"],
        "include_stop_str_in_output": True,
    }
    await stack.chat(**extra)
    await stack.chat(**{**extra, "temperature": 0})
    drawn, greedy = stack.generator.requests
    assert (drawn.sampling.top_p, drawn.sampling.top_k, drawn.sampling.seed) == (0.25, 3, 11)
    assert (drawn.sampling.max_tokens, drawn.sampling.min_tokens) == (9, 2)
    assert drawn.sampling.ignore_eos and drawn.sampling.stop_token_ids == (5,)
    assert drawn.stop == ("a", "b") and drawn.include_stop and drawn.tenant == "dev"
    assert (greedy.sampling.top_p, greedy.sampling.top_k, greedy.sampling.seed) == (1.0, 0, None)


async def test_priority_reaches_the_generator(stack: Any) -> None:
    """A request may give way; to go before others it needs the key for that."""
    text = {"model": "tiny", "prompt": "abc", "priority": 7}
    await stack.chat(priority=3)
    await stack.post("/v1/completions", text)
    assert [r.priority for r in stack.generator.requests] == [3, 7]
    for path, body in (("chat/completions", stack.body), ("completions", text)):
        status, _, refusal = await stack.post(f"/v1/{path}", {**body, "priority": -1})
        assert (status, refusal["error"]["param"]) == (403, "priority")
    headers = {"Authorization": "Bearer another-key"}
    assert (await stack.chat(headers, priority=-1))[0] == 200
    assert stack.generator.requests[-1].priority == -1


async def test_default_max_tokens_is_what_the_context_leaves(stack: Any) -> None:
    """Without max_tokens a chat may fill the context and a completion gets the default."""
    await stack.chat()
    await stack.post("/v1/completions", {"model": "tiny", "prompt": "abc"})
    chat, text = stack.generator.requests
    assert chat.sampling.max_tokens == 512 - len("<user>Hi<assistant>")
    assert text.sampling.max_tokens == 256


async def test_content_parts_are_joined(stack: Any) -> None:
    """Text parts of one message become its text; a developer speaks as the system."""
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "developer", "content": "S"}, {"role": "user", "content": parts}]
    await stack.chat(messages=messages)
    assert stack.tokenizer.chats == ["<system>S<user>ab<assistant>"]


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


@pytest.fixture
def settings(settings: Any, request: pytest.FixtureRequest) -> Any:
    """The keep-alive test need not wait for 15 s."""
    if "keep_alive" in request.node.name:
        return settings.model_copy(update={"keep_alive_s": 0.05})
    return settings


async def test_a_beam_search_is_one_request_with_n_choices(stack: Any) -> None:
    """Each prompt is sent once with the width, and its best sequences are answered in order."""
    answer = await stack.client.completions.create(
        model="tiny", prompt=["ab", "c"], n=2, best_of=3, echo=True,
        extra_body={"use_beam_search": True, "length_penalty": 0.5},
    )  # fmt: skip
    texts = ["abHello you", "abbeam 1", "cHello you", "cbeam 1"]
    assert [choice.text for choice in answer.choices] == texts
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.finish_reason for choice in answer.choices] == ["stop", "length"] * 2
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 6)
    sampling = [request.sampling for request in stack.generator.requests]
    assert [(s.n, s.beam_width, s.length_penalty) for s in sampling] == [(2, 3, 0.5)] * 2


async def test_the_answer_of_a_beam_search_is_cached(stack: Any) -> None:
    """Nothing in it is random, whatever the temperature says; another width is another answer."""
    extra = {"use_beam_search": True, "temperature": 1}
    outcomes = []
    for width in (2, 2, 3):
        _, headers, _ = await stack.chat(best_of=width, **extra)
        outcomes.append(headers["x-infermesh-cache"])
    assert outcomes == ["miss", "hit", "miss"]


async def test_a_beam_search_does_not_stream(stack: Any) -> None:
    """The refusal names the field."""
    status, _, body = await stack.chat(use_beam_search=True, best_of=2, stream=True)
    assert (status, body["error"]["param"]) == (400, "stream")
