"""What is remembered of requests, and how much of it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.domain.generation import GenerationRequest, Model, Sampling
from services.gateway.domain.request import (
    Conversation,
    InferenceRequest,
    Message,
    Options,
    Prompts,
    Retrieval,
)
from services.gateway.pipeline.request_memo import MemoKey, RequestMemo

MODEL = Model("tiny", "r", 512, 256)
CHAT = InferenceRequest(Conversation((Message("user", "Hi"),)), Options(model="tiny"), 16)


def key(text: str) -> MemoKey:
    request = replace(CHAT, prompt=Prompts((text,)))
    return MemoKey("dev", MODEL, request)


def request(num_tokens: int) -> GenerationRequest:
    return GenerationRequest(MODEL, (1,) * num_tokens, Sampling(4))


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 9)), max_size=40))
def test_the_last_ones_within_both_bounds_stay(puts: list[tuple[str, int]]) -> None:
    """Entries and tokens stay within bounds, and what stays is what was put or asked for last."""
    memo = RequestMemo(max_entries=3, max_tokens=12)
    recent: dict[str, int] = {}
    for name, num_tokens in puts:
        memo.put(key(name), request(num_tokens))
        recent.pop(name, None)
        recent[name] = num_tokens
        while len(recent) > 3 or sum(recent.values()) > 12:
            del recent[next(iter(recent))]
        assert (len(memo), memo.num_tokens) == (len(recent), sum(recent.values()))
    assert all(memo.get(key(name)) == request(count) for name, count in recent.items())


def test_text_weighs_though_it_became_few_tokens() -> None:
    """A template may cut white space: what is kept of a request is bounded all the same."""
    memo = RequestMemo(max_tokens=1000)
    for i in range(9):
        memo.put(key(f"{i}" + " " * 2000), request(1))
    assert len(memo) == 1


def test_what_is_asked_for_stays_longer() -> None:
    """A look counts as a use."""
    memo = RequestMemo(max_entries=2)
    for name in "ab":
        memo.put(key(name), request(1))
    memo.get(key("a"))
    memo.put(key("c"), request(1))
    assert memo.get(key("a")) is not None and memo.get(key("b")) is None


@pytest.mark.parametrize(
    "other",
    [
        MemoKey.of("admin", MODEL, CHAT),
        MemoKey.of("dev", replace(MODEL, revision="q"), CHAT),
        MemoKey.of("dev", MODEL, replace(CHAT, default_max_tokens=17)),
        MemoKey.of("dev", MODEL, replace(CHAT, options=Options(model="tiny", stop=("x",)))),
        MemoKey.of(
            "dev", MODEL, replace(CHAT, options=Options(model="tiny", sampling=Sampling(5)))
        ),
        MemoKey.of(
            "dev", MODEL, replace(CHAT, options=Options(model="tiny", unset=frozenset({"top_p"})))
        ),
        MemoKey.of("dev", MODEL, replace(CHAT, prompt=Conversation((Message("user", "Ho"),)))),
    ],
)
def test_all_that_determines_the_tokens_is_in_the_key(other: MemoKey | None) -> None:
    """Another tenant, revision, prompt or field is another request."""
    assert other is not None and other != MemoKey.of("dev", MODEL, CHAT)


def test_a_priority_is_not_in_the_key() -> None:
    """It changes when an answer comes, not which."""
    urgent = replace(CHAT, options=replace(CHAT.options, priority=-5))
    assert MemoKey.of("dev", MODEL, urgent) == MemoKey.of("dev", MODEL, CHAT)


@pytest.mark.parametrize(
    "prompt",
    [
        Conversation((Message("user", "Hi"),), Retrieval("docs", 3, None)),
        Prompts(token_ids=((1, 2),), echo=True),
    ],
)
def test_what_other_services_decide_is_not_remembered(prompt: Conversation | Prompts) -> None:
    """Passages change with their collection, and an echo of ids needs their text."""
    assert MemoKey.of("dev", MODEL, replace(CHAT, prompt=prompt)) is None
