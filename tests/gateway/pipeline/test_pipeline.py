"""The order of a generation request, seen from outside: cache, passages, limits."""

import asyncio
import dataclasses
import json
from contextlib import aclosing
from typing import Any

import pytest

from mesh.context import RequestContext
from services.gateway.domain.generation import Defaults, GenerationRequest, Sampling
from services.gateway.domain.request import Options
from services.gateway.generation.routing import Report
from services.gateway.pipeline import response_cache
from services.gateway.pipeline.pipeline import Pipeline
from services.gateway.pipeline.plan import Plan, plan_runs

RAG = {"retrieval": {"collection": "docs", "top_k": 3}}


@pytest.fixture
def settings(settings: Any, request: pytest.FixtureRequest) -> Any:
    """The slow cache need not be waited for."""
    if "slow_cache" in request.node.name:
        return settings.model_copy(update={"cache_timeout_s": 0.05})
    return settings


def outcome(reply: tuple[int, Any, Any]) -> str:
    status, headers, body = reply
    assert status == 200, body
    return str(headers["x-infermesh-cache"])


async def streamed(stack: Any, **extra: Any) -> tuple[str, list[dict[str, Any]]]:
    body = {**stack.body, **extra, "stream": True, "stream_options": {"include_usage": True}}
    async with stack.http.post(stack.url + "/v1/chat/completions", json=body) as response:
        text = (await response.read()).decode()
        assert response.status == 200, text
        events = text.removesuffix("\n\n").split("\n\n")
        assert events.pop() == "data: [DONE]"
        return response.headers["x-infermesh-cache"], [json.loads(e[6:]) for e in events]


async def test_second_answer_comes_from_the_cache(stack: Any) -> None:
    """Asked twice in a row, the second is a hit with equal text and usage."""
    stack.generator.words = ["Grüße", " 😀", "\u2028 you"]
    first, second = await stack.chat(), await stack.chat()
    assert (outcome(first), outcome(second)) == ("miss", "hit")
    assert first[2]["choices"] == second[2]["choices"]
    assert first[2]["usage"] == second[2]["usage"]
    assert len(stack.generator.requests) == 1


@pytest.mark.parametrize("include", [False, True])
async def test_an_included_stop_covers_stop_tokens(stack: Any, include: bool) -> None:
    """The generator is asked to tell the stop token where a stop string is kept."""
    await stack.chat(include_stop_str_in_output=include, stop_token_ids=[7])
    [request] = stack.generator.requests
    assert request.include_stop is request.sampling.include_stop_token is include


async def test_hit_as_stream(stack: Any) -> None:
    """A hit streams the same text and usage that the first stream had."""
    first, chunks = await streamed(stack)
    second, again = await streamed(stack)
    assert (first, second) == ("miss", "hit")

    def said(all_chunks: list[dict[str, Any]]) -> str:
        choices = [c["choices"][0] for c in all_chunks if c["choices"]]
        return "".join(choice["delta"].get("content", "") for choice in choices)

    assert said(chunks) == said(again) == "Hello you"
    assert chunks[-1]["usage"] == again[-1]["usage"]
    assert outcome(await stack.chat()) == "hit"


@pytest.mark.parametrize(
    ("extra", "headers"),
    [
        ({"cache": "no-store"}, {}),
        ({}, {"Cache-Control": "no-store"}),
        ({}, {"cache-control": "max-age=0, No-Store"}),
        ({"temperature": 0.7}, {}),
        ({"temperature": 0.7, "seed": 1}, {}),
        ({"n": 2}, {}),
    ],
)
async def test_bypass_neither_looks_nor_stores(
    stack: Any, extra: dict[str, Any], headers: dict[str, str]
) -> None:
    """What is random or must not be kept never touches the cache."""
    assert outcome(await stack.chat(headers, **extra)) == "bypass"
    assert stack.cache.lookups == 0
    await stack.lifecycle.drain()
    assert not stack.cache.answers


async def test_no_cache_refreshes(stack: Any) -> None:
    """`no-cache` takes a fresh answer, which later requests get."""
    await stack.chat()
    stack.generator.words = ["new"]
    assert outcome(await stack.chat({"Cache-Control": "no-cache"})) == "bypass"
    reply = await stack.chat()
    assert outcome(reply) == "hit"
    assert reply[2]["choices"][0]["message"]["content"] == "new"


async def test_tenants_do_not_share(stack: Any) -> None:
    """Another key's equal request is a miss."""
    await stack.chat()
    headers = {"Authorization": "Bearer another-key"}
    assert outcome(await stack.chat(headers)) == "miss"


async def test_broken_cache_never_fails_a_request(
    stack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lookups that fail are bypasses, and the cache is then left alone for a moment."""
    monkeypatch.setattr(response_cache, "REST_S", 60.0)
    stack.cache.broken = True
    assert outcome(await stack.chat()) == "bypass"
    assert outcome(await stack.chat()) == "bypass"
    assert stack.cache.lookups == 1


async def test_slow_cache_is_not_waited_for(stack: Any) -> None:
    """A cache that hangs costs its limit and no more."""
    stack.cache.hold = asyncio.Event()
    assert outcome(await stack.chat()) == "bypass"
    stack.cache.hold.set()


async def test_answers_that_broke_are_not_kept(stack: Any) -> None:
    """Only whole answers are stored."""
    stack.generator.words = ["Hel", RuntimeError("broken")]
    status, _, _ = await stack.chat()
    assert status == 500
    await stack.lifecycle.drain()
    assert not stack.cache.answers


async def test_answers_carry_their_citations(stack: Any) -> None:
    """The prompt holds the passages behind the caller's system text; the answer cites them."""
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Old?"}]
    _, _, body = await stack.chat(messages=messages, **RAG)
    search = stack.retriever.searches[0]
    assert (search.collection, search.query, search.top_k) == ("docs", "Old?", 3)
    assert [c["id"] for c in body["citations"]] == ["p0", "p1", "p2"]
    assert body["citations"][1] == {
        "id": "p1",
        "source": "mill.md",
        "score": pytest.approx(0.8),
        "start": 10,
        "end": 19,
    }
    prompt = stack.tokenizer.chats[-1]
    assert prompt.startswith("<system>Be kind.<user>Old?<passage>The mill number 0 is old.")
    assert prompt.count("<passage>") == 3 and prompt.endswith("is old.<assistant>")


@pytest.mark.parametrize("cached", [False, True])
async def test_an_answer_begins_as_its_prompt_ends(stack: Any, cached: bool) -> None:
    """What the tokenizer has it begin with is told first, of a cached answer as well."""
    stack.tokenizer.answer_start = "Passage ["
    plain = (await stack.chat(temperature=0))[2]["choices"][0]["message"]["content"]
    if cached:
        await stack.chat(**RAG, temperature=0)
        await stack.lifecycle.drain()
    _, headers, body = await stack.chat(**RAG, temperature=0, n=1)
    assert (headers["x-infermesh-cache"] == "hit") is cached
    assert body["choices"][0]["message"]["content"] == "Passage [" + plain


async def test_each_streamed_choice_begins_so(stack: Any) -> None:
    """Once, with its first text."""
    stack.tokenizer.answer_start = "Passage ["
    _, chunks = await streamed(stack, **RAG, n=2)
    texts = {0: "", 1: ""}
    for chunk in chunks:
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["delta"].get("content", "")
    assert all(text.startswith("Passage [") for text in texts.values())
    assert all(text.count("Passage [") == 1 for text in texts.values())


async def test_stream_carries_citations_first_and_last(stack: Any) -> None:
    """A stream cites on its first chunk and on the one with the finish reason."""
    _, chunks = await streamed(stack, **RAG)
    cited = ["citations" in chunk for chunk in chunks]
    reasons = [bool(c["choices"]) and bool(c["choices"][0]["finish_reason"]) for c in chunks]
    assert cited == [i == 0 or reason for i, reason in enumerate(reasons)]


async def test_query_of_its_own(stack: Any) -> None:
    """A query in the request searches instead of the last user message."""
    await stack.chat(retrieval={"collection": "docs", "query": "mills"})
    assert stack.retriever.searches[0].query == "mills"
    assert stack.retriever.searches[0].top_k == 1


async def test_words_of_passages_are_not_penalised(stack: Any) -> None:
    """The model's own repetition penalty does not meet an answer that repeats passages."""
    wishes = Defaults(temperature=0.5, repetition_penalty=1.5)
    model = dataclasses.replace(stack.generator.served[0], defaults=wishes)
    stack.queue.report(Report("r1", model, 0, 0, 0, False, frozenset()), 0.0)
    stack.body.pop("temperature")
    for fields in ({}, RAG, {**RAG, "repetition_penalty": 1.2}):
        await stack.chat(**fields)
    drawn = [request.sampling for request in stack.generator.requests]
    assert [each.repetition_penalty for each in drawn] == [1.5, 1.0, 1.2]
    assert {each.temperature for each in drawn} == {0.5}


async def test_passages_that_do_not_fit_are_dropped(stack: Any) -> None:
    """The lowest scores go first, and citations are exactly what the prompt still holds."""
    for passage in stack.retriever.passages:
        passage.text = f"Passage {passage.id} " + "x" * 200
    _, _, body = await stack.chat(**RAG, max_tokens=400)
    assert [c["id"] for c in body["citations"]] == ["p0"]
    request = stack.generator.requests[0]
    assert "Passage p0" in bytes(request.prompt_token_ids).decode()
    assert "Passage p1" not in bytes(request.prompt_token_ids).decode()
    room = 512 - len(request.prompt_token_ids)
    assert request.sampling.max_tokens == room >= 64


async def test_nothing_found_is_answered_without_passages(stack: Any) -> None:
    """An empty search grounds the answer in nothing and cites nothing."""
    stack.retriever.passages = []
    status, _, body = await stack.chat(**RAG)
    assert status == 200 and body["citations"] == []


async def test_unknown_collection(stack: Any) -> None:
    """The retriever's refusal names the request's field."""
    status, _, body = await stack.chat(retrieval={"collection": "nowhere"})
    assert (status, body["error"]["param"]) == (404, "retrieval.collection")


async def test_retrieval_without_a_question(stack: Any) -> None:
    """Without user message a query is needed."""
    messages = [{"role": "system", "content": "x"}]
    status, _, body = await stack.chat(messages=messages, **RAG)
    assert (status, body["error"]["param"]) == (400, "retrieval.query")


@pytest.mark.parametrize(
    ("path", "change", "status", "param", "code"),
    [
        ("chat/completions", {"model": "other"}, 404, "model", "model_not_found"),
        ("chat/completions", {"model": "all-MiniLM-L6-v2"}, 404, "model", "model_not_found"),
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": "x" * 600}]},
            400,
            "messages",
            "context_length_exceeded",
        ),
        ("chat/completions", {"max_tokens": 510}, 400, "max_tokens", "context_length_exceeded"),
        (
            "chat/completions",
            {"max_completion_tokens": 510},
            400,
            "max_completion_tokens",
            "context_length_exceeded",
        ),
        ("chat/completions", {"max_tokens": 5, "min_tokens": 6}, 400, "min_tokens", None),
        ("chat/completions", {"stop_token_ids": [256]}, 400, "stop_token_ids", None),
        ("completions", {"prompt": "x" * 512}, 400, "prompt", "context_length_exceeded"),
        ("completions", {"prompt": ["a", "x" * 512]}, 400, "prompt[1]", "context_length_exceeded"),
        ("completions", {"prompt": [256]}, 400, "prompt", None),
        ("completions", {"prompt": [[1], [256]]}, 400, "prompt[1]", None),
    ],
)
async def test_what_the_model_cannot_do(
    stack: Any, path: str, change: dict[str, Any], status: int, param: str, code: str | None
) -> None:
    """Limits of the model are refusals that name the field, before anything is generated."""
    body = {"model": "tiny", "prompt": "Hi"} if path == "completions" else stack.body
    got, _, reply = await stack.post(f"/v1/{path}", {**body, **change})
    assert (got, reply["error"]["param"], reply["error"]["code"]) == (status, param, code)
    assert not stack.generator.requests


async def test_context_refusal_states_the_counts(stack: Any) -> None:
    """The message has the numbers that a caller needs."""
    messages = [{"role": "user", "content": "x" * 600}]
    _, _, reply = await stack.chat(messages=messages)
    assert "512" in reply["error"]["message"] and "617" in reply["error"]["message"]


async def test_no_generator_is_unavailable(stack: Any) -> None:
    """Without replicas, a request is told to come again."""
    stack.queue.gone("r1")
    status, headers, _ = await stack.chat()
    assert status == 503 and headers["Retry-After"] == "1"


async def test_leaving_a_run_closes_the_generator_at_once(stack: Any) -> None:
    """Whoever closes a run has cancelled the work when that returns."""
    unused: Any = None
    cache = response_cache.ResponseCache(unused, 1)
    pipeline = Pipeline(unused, unused, unused, cache, stack.generator)
    stack.generator.words = ["Hel", "lo"]
    sequence = GenerationRequest(stack.generator.served[0], (1,), Sampling(4))
    runs = plan_runs([sequence], Options(model="tiny"))
    plan = Plan(runs, 1, response_cache.Outcome.BYPASS)
    async with aclosing(pipeline.run(plan, RequestContext.start(60))) as entries:
        async for _ in entries:
            break
        assert stack.generator.running == 1
    assert stack.generator.running == 0
