"""Fitting passages and answers into a context."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.context import RequestContext
from services.gateway.api.openai.chat import read_chat
from services.gateway.domain.documents import Passage
from services.gateway.domain.generation import ChatPrompt, Defaults, Model, Sampling
from services.gateway.domain.request import Message
from services.gateway.pipeline import context_window

QUESTION = [Message("user", "?")]


class Counting:
    """One token per character; counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    async def encode(self, texts: Sequence[str], context: Any) -> list[tuple[int, ...]]:
        raise AssertionError("not asked here")

    async def encode_chat(
        self, messages: Sequence[Message], context: Any, passages: Sequence[str] | None = None
    ) -> ChatPrompt:
        self.calls += 1
        texts = [*(m.content for m in messages), *(passages or ())]
        return ChatPrompt((0,) * sum(map(len, texts)))


def passage(i: int, score: float, length: int) -> Passage:
    return Passage(str(i), "a.md", "x" * length, score, 0, length)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.floats(-1, 1), st.integers(1, 300)), max_size=100), st.integers(0, 3000)
)
async def test_the_best_passages_that_fit(found: list[tuple[float, int]], most: int) -> None:
    """What stays is the longest best-first run that fits, found in few calls."""
    passages = [passage(i, score, length) for i, (score, length) in enumerate(found)]
    counting = Counting()
    context = RequestContext.start(60)
    kept, prompt = await context_window.ground(counting, QUESTION, passages, most, context)
    ranked = sorted(passages, key=lambda p: p.score, reverse=True)
    assert list(kept) == ranked[: len(kept)]
    assert counting.calls <= 9

    async def length(count: int) -> int:
        texts = [p.text for p in ranked[:count]]
        return len(await counting.encode_chat(QUESTION, context, texts))

    assert len(prompt) == await length(len(kept))
    if kept:
        assert len(prompt) <= most
    if len(kept) < len(ranked):
        assert await length(len(kept) + 1) > most


WISHES = Defaults(
    max_tokens=9, temperature=0.6, top_k=20, top_p=0.9, min_p=0.1, repetition_penalty=1.1
)
CHAT = {"model": "m", "messages": [{"role": "user", "content": "?"}]}


def drawn(defaults: Defaults, **fields: Any) -> Sampling:
    model = Model("m", "r", 512, 100, (), defaults)
    options = read_chat({**CHAT, **fields}, 300)[0].options
    return context_window.complete(options, model, (1, 2), "prompt", 300)


def test_a_silent_request_is_sampled_as_the_model_wishes() -> None:
    """What the request does not name comes from the model, and is off where that is silent too."""
    assert drawn(WISHES) == Sampling(**dataclasses.asdict(WISHES))
    assert drawn(Defaults()) == Sampling(300, temperature=1.0)


def test_the_request_wins_over_the_model() -> None:
    """Each named field counts, values that turn something off as well."""
    fields = {"temperature": 0.3, "top_k": 0, "top_p": 1, "min_p": 0, "repetition_penalty": 1}
    assert drawn(WISHES, **fields, max_tokens=5) == Sampling(5, temperature=0.3)
    assert drawn(WISHES, top_k=3) == Sampling(**dataclasses.asdict(WISHES) | {"top_k": 3})


def test_a_model_may_wish_to_be_greedy() -> None:
    """Its answers then have the cache keys of requests that ask for temperature 0."""
    wishes = dataclasses.replace(WISHES, temperature=0.0)
    assert drawn(wishes) == drawn(WISHES, temperature=0)
    assert drawn(wishes).top_k == 0


def test_prompt_without_tokens_is_refused() -> None:
    """An empty prompt has nothing to continue."""
    with pytest.raises(Exception, match="at least one token"):
        context_window.check_ids("prompt", (), None)  # type: ignore[arg-type]
