"""Log-probabilities, echo, n and best_of through the official client."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.api.openai import logprobs
from services.gateway.domain.generation import TokenLogprobs, TokenPiece

HELLO = ["H", "e", "l", "l", "o", " ", "y", "o", "u"]


async def test_chat_tells_each_token(stack: Any) -> None:
    """Token, value, bytes and as many alternatives as asked for; the cache is left alone."""
    for _ in range(2):
        answer = await stack.client.chat.completions.create(
            **stack.body, logprobs=True, top_logprobs=2
        )
    [choice] = answer.choices
    content = choice.logprobs.content
    assert [one.token for one in content] == HELLO
    assert (content[0].logprob, content[0].bytes) == (-0.5, [ord("H")])
    assert [(top.token, top.logprob) for top in content[0].top_logprobs] == [
        ("H", -0.5),
        ("I", -1.5),
    ]
    assert len(stack.generator.requests) == 2 and stack.cache.lookups == 0
    # each token is asked for once
    assert stack.tokenizer.described == len({chr(ord(c) + n) for c in "Hello you" for n in (0, 1)})


async def test_chat_stream_tells_the_tokens_of_each_chunk(stack: Any) -> None:
    """Each chunk describes its own text, and none is left out."""
    stream = await stack.client.chat.completions.create(**stack.body, logprobs=True, stream=True)
    chunks = [chunk async for chunk in stream]
    told = [c.choices[0].logprobs for c in chunks]
    texts = [
        "".join(one.token for one in logprobs.content) for logprobs in told if logprobs is not None
    ]
    assert texts == ["Hel", "lo", " you"]
    assert all(one.top_logprobs == [] for lp in told if lp is not None for one in lp.content)


async def test_without_asking_nothing_is_told(stack: Any) -> None:
    """Both endpoints say null, and the generator is not asked."""
    chat = await stack.client.chat.completions.create(**stack.body)
    text = await stack.client.completions.create(model="tiny", prompt="abc")
    assert chat.choices[0].logprobs is None and text.choices[0].logprobs is None
    assert not any(r.sampling.asks_logprobs for r in stack.generator.requests)


async def test_a_part_of_a_character_in_a_chat(stack: Any) -> None:
    """Its bytes are told, and join to the text; as a token they are written out."""
    stack.generator.words = ["é"]
    answer = await stack.client.chat.completions.create(**stack.body, logprobs=True, top_logprobs=2)
    [choice] = answer.choices
    content = choice.logprobs.content
    assert [(one.token, one.bytes) for one in content] == [(r"\xc3", [0xC3]), (r"\xa9", [0xA9])]
    assert bytes(b for one in content for b in one.bytes).decode() == choice.message.content
    assert [top.token for top in content[0].top_logprobs] == [r"\xc3", r"\xc4"]


async def test_a_part_of_a_character_in_a_text(stack: Any) -> None:
    """Tokens that differ only in bytes stay apart among the alternatives."""
    stack.generator.words = ["é"]
    answer = await stack.client.completions.create(
        model="tiny", prompt="é", logprobs=2, echo=True, extra_body={"prompt_logprobs": 1}
    )
    told = answer.choices[0].logprobs
    assert told.tokens == [r"bytes:\xc3", r"bytes:\xa9"] * 2
    assert told.top_logprobs[2] == {r"bytes:\xc3": -0.5, r"bytes:\xc4": -1.5}
    [none, second] = answer.choices[0].prompt_logprobs
    assert none is None
    assert second[str(0xA9)]["decoded_token"] == r"bytes:\xa9"


SPACE, WORD, BYTE, END, UNKNOWN = range(5)
PIECES = {
    SPACE: TokenPiece(b" the"),
    WORD: TokenPiece(b"the"),
    BYTE: TokenPiece(b" \xf0\x9f"),
    END: TokenPiece(b"", "</s>"),
    UNKNOWN: TokenPiece(b""),
}


def test_special_tokens_have_names_and_no_bytes() -> None:
    """An end token that is told adds nothing to the text."""
    told = logprobs.chat([TokenLogprobs(END, -1.0, 1, ((END, -1.0),), PIECES[END])], PIECES)
    [entry] = told["content"]
    assert (entry["token"], entry["bytes"]) == ("</s>", [])
    assert entry["top_logprobs"] == [{"token": "</s>", "logprob": -1.0, "bytes": []}]


def test_a_token_at_the_start_of_a_text_is_found_among_its_alternatives() -> None:
    """What the text's start takes from a token, it takes from the others in its place."""
    top = ((SPACE, -0.5), (BYTE, -1.0))
    one = TokenLogprobs(SPACE, -0.5, 1, top, TokenPiece(b"the"))
    [entry] = logprobs.chat([one], PIECES)["content"]
    assert [other["token"] for other in entry["top_logprobs"]] == ["the", r"\xf0\x9f"]
    told = logprobs.completion([one], PIECES, 2)
    assert told["top_logprobs"] == [{"the": -0.5, r"bytes:\xf0\x9f": -1.0}]


def test_of_equal_texts_the_tokens_own_value_is_told() -> None:
    """A completion's alternatives are keyed by text, where the token finds its own value."""
    one = TokenLogprobs(SPACE, -2.0, 2, ((WORD, -0.5),), TokenPiece(b"the"))
    told = logprobs.completion([one], PIECES, 1)
    assert told["top_logprobs"] == [{"the": -2.0}]
    assert told["token_logprobs"] == [-2.0]


async def test_text_completion_form(stack: Any) -> None:
    """Parallel lists of tokens, values, alternatives by text, and offsets into the text."""
    answer = await stack.client.completions.create(model="tiny", prompt="abc", logprobs=2)
    told = answer.choices[0].logprobs
    assert told.tokens == HELLO
    assert told.token_logprobs == [-0.5] * 9
    assert told.top_logprobs[0] == {"H": -0.5, "I": -1.5}
    assert told.text_offset == list(range(9))


@pytest.mark.parametrize("prompt", ["abc", list(b"abc")])
async def test_echo_repeats_and_scores_the_prompt(stack: Any, prompt: Any) -> None:
    """The prompt comes first in text and log-probabilities; its first token has no value."""
    answer = await stack.client.completions.create(
        model="tiny", prompt=prompt, echo=True, logprobs=1
    )
    [choice] = answer.choices
    assert choice.text == "abcHello you"
    assert choice.logprobs.tokens == ["a", "b", "c", *HELLO]
    assert choice.logprobs.token_logprobs == [None, *[-0.5] * 11]
    assert choice.logprobs.top_logprobs[:2] == [None, {"b": -0.5}]
    assert choice.logprobs.text_offset == list(range(12))
    assert answer.usage.completion_tokens == 3


async def test_echo_streams(stack: Any) -> None:
    """The first chunk of each choice is its prompt; the text adds up to the plain answer."""
    stream = await stack.client.completions.create(
        model="tiny", prompt=["abc", "de"], echo=True, logprobs=0, stream=True
    )
    choices = [chunk.choices[0] async for chunk in stream]
    for index, prompt in enumerate(["abc", "de"]):
        own = [choice for choice in choices if choice.index == index]
        assert own[0].text == prompt
        assert "".join(choice.text for choice in own) == prompt + "Hello you"
        told = [choice.logprobs for choice in own if choice.logprobs is not None]
        assert "".join(t for lp in told for t in lp.tokens) == prompt + "Hello you"
        offsets = [offset for lp in told for offset in lp.text_offset]
        assert offsets == list(range(len(prompt) + 9))


async def test_echo_without_logprobs_scores_nothing(stack: Any) -> None:
    """A prompt that is only repeated may come from the prefix cache."""
    answer = await stack.client.completions.create(model="tiny", prompt=["abc", "de"], echo=True)
    assert [choice.text for choice in answer.choices] == ["abcHello you", "deHello you"]
    assert not any(r.sampling.asks_logprobs for r in stack.generator.requests)


async def test_prompt_logprobs_in_both_endpoints(stack: Any) -> None:
    """vLLM's form: null for the first token, then the token and its alternatives by id."""
    extra = {"prompt_logprobs": 2}
    text = await stack.client.completions.create(model="tiny", prompt="abc", extra_body=extra)
    expected = {
        str(ord("b")): {"logprob": -0.5, "rank": 1, "decoded_token": "b"},
        str(ord("c")): {"logprob": -1.5, "rank": 2, "decoded_token": "c"},
    }
    assert text.choices[0].logprobs is None
    assert text.choices[0].prompt_logprobs[:2] == [None, expected]
    assert len(text.choices[0].prompt_logprobs) == 3
    chat = await stack.client.chat.completions.create(**stack.body, extra_body=extra)
    assert len(chat.prompt_logprobs) == len("<user>Hi<assistant>")


@pytest.mark.parametrize("n", [1, 2])
async def test_the_best_are_answered(stack: Any, n: int) -> None:
    """best_of sequences are drawn and counted; the n with the best mean are answered in order."""
    stack.generator.scores = {5: -2.0, 6: -0.1, 7: -1.0}
    answer = await stack.client.completions.create(
        model="tiny", prompt=["ab", "c"], n=n, best_of=3, seed=5, logprobs=0
    )
    values = [choice.logprobs.token_logprobs[0] for choice in answer.choices]
    assert values == [-0.1, -1.0][:n] * 2
    assert [choice.index for choice in answer.choices] == list(range(2 * n))
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 6 * 3)
    assert [r.sampling.seed for r in stack.generator.requests] == [5, 6, 7] * 2


async def test_best_of_scores_without_telling(stack: Any) -> None:
    """The choice is made by log-probabilities that the caller did not ask for."""
    stack.generator.scores = {0: -2.0, 1: -0.1}
    answer = await stack.client.completions.create(model="tiny", prompt="ab", best_of=2, seed=0)
    assert len(answer.choices) == 1 and answer.choices[0].logprobs is None
    assert {r.sampling.logprobs for r in stack.generator.requests} == {0}


async def test_n_choices_stream_by_index(stack: Any) -> None:
    """Each of n choices has its own chunks, seed and end; the prompt counts once."""
    stream = await stack.client.chat.completions.create(
        **{**stack.body, "temperature": 1}, n=16, seed=2**64 - 1, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = [chunk async for chunk in stream]
    texts: dict[int, str] = {}
    for choice in (c for chunk in chunks for c in chunk.choices):
        texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
    assert texts == dict.fromkeys(range(16), "Hello you")
    seeds = {r.sampling.seed for r in stack.generator.requests}
    assert seeds == {(2**64 - 1 + i) % 2**64 for i in range(16)}
    assert chunks[-1].usage.completion_tokens == 16 * 3
    assert chunks[-1].usage.prompt_tokens == len("<user>Hi<assistant>")


async def test_every_option_reaches_the_generator_and_the_cache_key(stack: Any) -> None:
    """Each option that changes the text is asked of the generator and makes another answer."""
    options: list[dict[str, Any]] = [
        {"frequency_penalty": 0.5},
        {"presence_penalty": -0.5},
        {"repetition_penalty": 1.25},
        {"logit_bias": {"7": 1.5}},
        {"allowed_token_ids": [1, 2]},
        {"bad_token_ids": [2]},
        {"min_tokens": 2},
    ]
    for option in options:
        _, headers, _ = await stack.chat(**option)
        assert headers["x-infermesh-cache"] == "miss", option
        [(name, value)] = option.items()
        asked = getattr(stack.generator.requests[-1].sampling, name)
        assert asked in (value, ((7, 1.5),), tuple(value) if isinstance(value, list) else value)
    assert len(stack.generator.requests) == len(options)
    _, headers, _ = await stack.chat(logit_bias={"7": 1.5})
    assert headers["x-infermesh-cache"] == "hit"
    for option in ({"min_p": 0.25}, {"typical_p": 0.5}):
        await stack.chat(temperature=1, **option)
        sampling = stack.generator.requests[-1].sampling
        assert [getattr(sampling, name) for name in option] == list(option.values())
        # a greedy answer does not depend on it
        await stack.chat(**option)
    assert stack.generator.requests[-1].sampling.min_p == 0.0


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"allowed_token_ids": [256]}, "allowed_token_ids"),
        ({"bad_token_ids": [256]}, "bad_token_ids"),
        ({"bad_token_ids": list(range(256))}, "bad_token_ids"),
        ({"logit_bias": {"256": 1}}, "logit_bias"),
        ({"allowed_token_ids": [1], "bad_token_ids": [1]}, "allowed_token_ids"),
        ({"allowed_token_ids": [0], "min_tokens": 1}, "allowed_token_ids"),
    ],
)
async def test_what_the_vocabulary_cannot_do(
    stack: Any, change: dict[str, Any], field: str
) -> None:
    """Ids outside the vocabulary and bans of everything are refused by name."""
    status, _, body = await stack.chat(**change)
    assert (status, body["error"]["param"]) == (400, field)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.floats(-9, 0)), max_size=6), st.integers(0, 9))
def test_offsets_add_up(told: list[tuple[int, float]], offset: int) -> None:
    """Every token begins where the one before it ends."""
    starts = [sum(i for i, _ in told[:place]) for place in range(len(told))]
    tokens = [
        TokenLogprobs(i, value, 1, piece=TokenPiece(b"x" * i, offset=start))
        for (i, value), start in zip(told, starts, strict=True)
    ]
    made = logprobs.completion(tokens, {}, 0, offset=offset)
    ends = [start + len(t) for start, t in zip(made["text_offset"], made["tokens"], strict=True)]
    assert [offset, *ends][:-1] == made["text_offset"] or not told
    assert made["top_logprobs"] == [{"x" * i: value} for i, value in told]
