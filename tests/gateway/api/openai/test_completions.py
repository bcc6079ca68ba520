"""Text completions through the official client, plain and streamed."""

from typing import Any

import pytest


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
