"""Fitting passages and answers into a context."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.context import RequestContext
from services.gateway import fitting
from services.gateway.fitting import Passage
from services.gateway.openai import Message

QUESTION = [Message("user", "?")]


class Counting:
    """One token per character; counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    async def encode(self, texts: Sequence[str], context: Any) -> list[tuple[int, ...]]:
        raise AssertionError("not asked here")

    async def encode_chat(self, messages: Sequence[Message], context: Any) -> tuple[int, ...]:
        self.calls += 1
        return (0,) * sum(len(m.content) for m in messages)


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
    kept, prompt = await fitting.ground(counting, QUESTION, passages, most, context)
    ranked = sorted(passages, key=lambda p: p.score, reverse=True)
    assert list(kept) == ranked[: len(kept)]
    assert counting.calls <= 9

    async def length(count: int) -> int:
        texts = [p.text for p in ranked[:count]]
        return len(await counting.encode_chat(fitting.grounded(QUESTION, texts), context))

    assert len(prompt) == await length(len(kept))
    if kept:
        assert len(prompt) <= most
    if len(kept) < len(ranked):
        assert await length(len(kept) + 1) > most


def test_system_texts_become_one() -> None:
    """The caller's system messages stand before the instruction, the rest keeps its order."""
    messages = [
        Message("system", "A"),
        Message("user", "1"),
        Message("system", "B"),
        Message("assistant", "2"),
    ]
    made = fitting.grounded(messages, ["p"])
    assert [m.role for m in made] == ["system", "user", "assistant"]
    assert made[0].content.startswith("A\n\nB\n\n") and made[0].content.endswith("[1] p")


def test_prompt_without_tokens_is_refused() -> None:
    """An empty prompt has nothing to continue."""
    with pytest.raises(Exception, match="at least one token"):
        fitting.check_ids("prompt", (), None)  # type: ignore[arg-type]
