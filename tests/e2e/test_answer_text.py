"""What an answer's text, tokens and usage tell, however it ends: through a really running stack."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import openai
import pytest
from tokenizers import Tokenizer

from tests.e2e.stack import ROOT

pytestmark = pytest.mark.e2e

LONG = "Tell me about the old lighthouse, its keeper and the sea, in a few plain words. " * 6
HELLO: Any = [{"role": "user", "content": "Hello! Who are you?"}]
FRESH = {"cache": "no-store"}
EMOJI = "😀".encode()


@pytest.fixture
def tokenizer(model: str) -> Tokenizer:
    """The vocabulary of the model that is served."""
    path = ROOT / "models" / model / "tokenizer.json"
    if not path.exists():
        pytest.skip("the stack under test serves a model that is not in this repository")
    return Tokenizer.from_file(str(path))


def emoji(tokenizer: Tokenizer) -> dict[str, Any]:
    """Options that force the emoji's four byte tokens: each bias wins until its token is out."""
    ids = tokenizer.encode(EMOJI.decode()).ids
    assert len(ids) == len(EMOJI)
    biases = dict(zip(map(str, ids), (100, 90, 80, 70), strict=True))
    return {"logit_bias": biases, "repetition_penalty": 10, "allowed_token_ids": ids, **FRESH}


def cached(answer: Any) -> int:
    """The prompt tokens that came from the prefix cache."""
    return int(answer.usage.prompt_tokens_details.cached_tokens)


def test_cached_tokens_do_not_depend_on_the_end(client: openai.OpenAI, model: str) -> None:
    """A stop string, n choices, a stream and the stored answer tell the same as the plain end."""

    def ask(**more: Any) -> Any:
        options = {"model": model, "prompt": LONG, "max_tokens": 24, "temperature": 0}
        return client.completions.create(**{**options, "extra_body": FRESH, **more})

    # each replica sees the prompt
    plain = [ask() for _ in range(6)][-1]
    assert cached(plain) > 0
    text = plain.choices[0].text
    stopped = ask(stop=[text[6:12]])
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.usage.completion_tokens < plain.usage.completion_tokens
    assert cached(stopped) == cached(plain)
    assert cached(ask(stop=[text[6:12]], n=2)) == cached(plain)
    assert cached(ask(stop=[text[6:12]], extra_body={**FRESH, "min_tokens": 2})) == cached(plain)
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    assert cached(list(ask(stop=[text[6:12]], **usage))[-1]) == cached(plain)
    stored = [ask(stop=[text[6:12]], extra_body={}) for _ in range(2)]
    assert [cached(answer) for answer in stored] == [cached(plain)] * 2


@pytest.mark.parametrize("stream", [False, True])
def test_bytes_of_a_chats_tokens(
    client: openai.OpenAI, model: str, tokenizer: Tokenizer, stream: bool
) -> None:
    """Each token has its bytes, which join to the text; alternatives differ by them."""
    answer: Any = client.chat.completions.create(
        model=model, messages=HELLO, max_tokens=4, temperature=0, logprobs=True, top_logprobs=20,
        stream=stream, extra_body=emoji(tokenizer),
    )  # fmt: skip
    choices = [chunk.choices[0] for chunk in answer] if stream else answer.choices
    content = [one for choice in choices if choice.logprobs for one in choice.logprobs.content]
    texts = [choice.delta.content if stream else choice.message.content for choice in choices]
    assert "".join(text or "" for text in texts) == "😀"
    assert [bytes(one.bytes) for one in content] == [bytes([byte]) for byte in EMOJI]
    assert [one.token for one in content] == [f"\\x{byte:02x}" for byte in EMOJI]
    for one in content:
        tokens = [top.token for top in one.top_logprobs]
        assert len(set(tokens)) == len(tokens) == 20


@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_offsets_of_a_completions_tokens(
    client: openai.OpenAI, model: str, tokenizer: Tokenizer, stream: bool, echo: bool
) -> None:
    """They point at the character that has a token's first byte, and never pass the text."""
    prompt = "The boat crossed the Ærø harbour ÿ "
    answer: Any = client.completions.create(
        model=model, prompt=prompt, max_tokens=4, temperature=0, logprobs=5, echo=echo,
        stream=stream, extra_body=emoji(tokenizer),
    )  # fmt: skip
    choices = [chunk.choices[0] for chunk in answer] if stream else answer.choices
    text = "".join(choice.text for choice in choices)
    told = [choice.logprobs for choice in choices if choice.logprobs]
    offsets = [offset for one in told for offset in one.text_offset]
    tokens = [token for one in told for token in one.tokens]
    assert text == (prompt if echo else "") + "😀"
    assert tokens[-4:] == [f"bytes:\\x{byte:02x}" for byte in EMOJI]
    assert offsets[-4:] == [len(text) - 1] * 4
    check_offsets(text, tokens, offsets)
    assert all(len(top) >= 5 for one in told for top in one.top_logprobs if top is not None)


def check_offsets(text: str, tokens: Sequence[str], offsets: Sequence[int]) -> None:
    """Offsets never fall or pass the text; between two of them is the token, where it is text."""
    assert offsets == sorted(offsets)
    assert all(0 <= offset <= len(text) for offset in offsets)
    for token, (start, end) in zip(tokens, pairwise([*offsets, len(text)]), strict=True):
        if not token.startswith("bytes:"):
            assert text[start:end] == token


@pytest.mark.parametrize("as_ids", [False, True])
def test_special_tokens_of_an_echoed_prompt(
    client: openai.OpenAI, model: str, tokenizer: Tokenizer, as_ids: bool
) -> None:
    """Their names are in the repeated text, and the tokens behind them are where they should be."""
    special = next(t.content for t in tokenizer.get_added_tokens_decoder().values() if t.special)
    text = f"{special}The harbour{special} is 🦊 old"
    prompt: Any = tokenizer.encode(text).ids if as_ids else text
    answer = client.completions.create(
        model=model, prompt=prompt, max_tokens=3, temperature=0, logprobs=0, echo=True
    )
    [choice] = answer.choices
    assert choice.text.startswith(text)
    assert choice.logprobs
    check_offsets(choice.text, choice.logprobs.tokens or [], choice.logprobs.text_offset or [])


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_tokens_up_to_a_stop_string(
    client: openai.OpenAI, model: str, stream: bool, include: bool
) -> None:
    """What a stop string cuts off is in no token's bytes, and no offset passes what is left."""
    options: Any = {"model": model, "prompt": "The harbour", "max_tokens": 24, "temperature": 0}
    text = client.completions.create(**options).choices[0].text
    stop = text[9:14]
    answer: Any = client.completions.create(
        **options, stop=[stop], logprobs=2, stream=stream,
        extra_body={"include_stop_str_in_output": include},
    )  # fmt: skip
    choices = [chunk.choices[0] for chunk in answer] if stream else answer.choices
    kept = "".join(choice.text for choice in choices)
    told = [choice.logprobs for choice in choices if choice.logprobs]
    tokens = [token for one in told for token in one.tokens]
    assert kept == text[: text.index(stop) + (len(stop) if include else 0)]
    assert "".join(tokens) == kept
    check_offsets(kept, tokens, [offset for one in told for offset in one.text_offset])


def test_a_broken_character_in_an_echoed_prompt(
    client: openai.OpenAI, model: str, tokenizer: Tokenizer
) -> None:
    """Bytes that are no character are one replacement in the text, where both of them begin."""
    first, second, *_ = tokenizer.encode(EMOJI.decode()).ids
    letters = tokenizer.encode("sea").ids
    answer = client.completions.create(
        model=model, prompt=[first, second, *letters, first, *letters], max_tokens=1, logprobs=1,
        echo=True, extra_body={"prompt_logprobs": 1},
    )  # fmt: skip
    [choice] = answer.choices
    assert choice.text.startswith("\ufffdsea\ufffdsea")
    assert choice.logprobs
    offsets, tokens = choice.logprobs.text_offset or [], choice.logprobs.tokens or []
    assert tokens[:2] == [r"bytes:\xf0", r"bytes:\x9f"]
    assert offsets[:3] == [0, 0, 1]
    assert offsets[2 + len(letters) : 4 + len(letters)] == [4, 5]
    prompt: Any = choice.model_extra and choice.model_extra["prompt_logprobs"]
    assert prompt[1][str(second)]["decoded_token"] == r"bytes:\x9f"


@pytest.mark.parametrize("beams", [False, True])
@pytest.mark.parametrize("include", [False, True])
def test_min_tokens_holds_stop_strings_back(
    client: openai.OpenAI, model: str, tokenizer: Tokenizer, include: bool, beams: bool
) -> None:
    """A stop string that comes before is passed over; the next that comes later ends the text."""
    search = {"use_beam_search": True, "best_of": 2} if beams else {}
    options: Any = {"model": model, "prompt": "The harbour", "max_tokens": 60, "temperature": 0}
    extra = {**FRESH, **search, "include_stop_str_in_output": include, "ignore_eos": True}
    text = client.completions.create(**options, extra_body=extra).choices[0].text
    # a stop string that comes again and again
    stop = max(set(text), key=text.count)
    early = client.completions.create(**options, stop=[stop], extra_body=extra).choices[0].text
    held = client.completions.create(
        **options, stop=[stop], extra_body={**extra, "min_tokens": 20}
    ).choices[0]
    ids = tokenizer.encode(text).ids
    num_early = len(tokenizer.decode(ids[:20]))
    assert len(early) < num_early
    assert held.finish_reason == "stop"
    assert text.startswith(held.text)
    assert len(held.text) + (not include) > num_early
    assert held.text.endswith(stop) is include or not include


@pytest.mark.parametrize("beams", [False, True])
def test_an_included_stop_token_is_in_the_text(
    client: openai.OpenAI, model: str, tokenizer: Tokenizer, beams: bool
) -> None:
    """Its text is kept as a stop string is; an end token adds nothing."""
    search = {"use_beam_search": True, "best_of": 2} if beams else {}
    options: Any = {"model": model, "messages": HELLO, "max_tokens": 24, "temperature": 0}
    extra = {**FRESH, **search}
    plain = client.chat.completions.create(**options, extra_body=extra)
    text = plain.choices[0].message.content or ""
    ids = tokenizer.encode(text).ids
    stop = next(i for i in ids[3:] if i not in ids[:3])
    kept, cut = (
        client.chat.completions.create(
            **options,
            extra_body={**extra, "stop_token_ids": [stop], "include_stop_str_in_output": include},
        )
        for include in (True, False)
    )
    assert kept.choices[0].finish_reason == cut.choices[0].finish_reason == "stop"
    kept_text, cut_text = (answer.choices[0].message.content or "" for answer in (kept, cut))
    assert kept_text == cut_text + tokenizer.decode([stop])
    assert beams or text.startswith(kept_text)
    assert kept.usage and cut.usage
    assert kept.usage.completion_tokens == cut.usage.completion_tokens


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("logprobs", [None, 2])
def test_no_new_tokens_tell_the_prompts_scores_alone(
    client: openai.OpenAI, model: str, stream: bool, logprobs: int | None
) -> None:
    """`max_tokens` 0 with `echo`: the prompt and its own values, and no token of an answer."""
    options = {"model": model, "prompt": ["Once upon", "a time"], "n": 2, "logprobs": logprobs}
    more = {"max_tokens": 0, "echo": True, "temperature": 0, "extra_body": FRESH}
    scored = client.completions.create(**{**options, "prompt": "Once upon", "n": 1, **more})
    assert scored.usage.completion_tokens == 0 < scored.usage.prompt_tokens
    texts: dict[int, str] = {}
    told: dict[int, list[Any]] = {}
    if stream:
        usage = {"stream": True, "stream_options": {"include_usage": True}}
        answers = list(client.completions.create(**options, **more, **usage))
    else:
        answers = [client.completions.create(**options, **more)]
    reasons = []
    for answer in answers:
        for choice in answer.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
            reasons += [choice.finish_reason] if choice.finish_reason else []
            if choice.logprobs is not None:
                told.setdefault(choice.index, []).extend(choice.logprobs.token_logprobs)
    assert texts == {0: "Once upon", 1: "Once upon", 2: "a time", 3: "a time"}
    assert reasons == ["length"] * 4
    assert answers[-1].usage.completion_tokens == 0
    if logprobs is not None:
        assert told[0] == scored.choices[0].logprobs.token_logprobs
        assert told[0][0] is None and len(told[0]) == scored.usage.prompt_tokens
