"""Chat completions through the official client, plain and streamed."""

import json
from typing import Any


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
