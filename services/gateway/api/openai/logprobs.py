"""Log-probabilities in OpenAI's two forms and in vLLM's for prompts. Pure.

`texts` holds the text of every token by id.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from services.gateway.domain.generation import TokenLogprobs

Texts = Mapping[int, str]
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def token_ids(tokens: Iterable[TokenLogprobs]) -> set[int]:
    """All tokens that a description names."""
    named: set[int] = set()
    for one in tokens:
        named.add(one.token_id)
        named.update(token_id for token_id, _ in one.top)
    return named


def mean(tokens: Sequence[TokenLogprobs]) -> float:
    """The mean of the tokens' own values; without tokens the least."""
    if not tokens:
        return float("-inf")
    return sum(one.logprob for one in tokens) / len(tokens)


def chat(tokens: Iterable[TokenLogprobs], texts: Texts) -> dict[str, Any]:
    """A chat choice's `logprobs`."""
    content = [
        {
            **_entry(texts[one.token_id], one.logprob),
            "top_logprobs": [_entry(texts[token_id], value) for token_id, value in one.top],
        }
        for one in tokens
    ]
    return {"content": content, "refusal": None}


def completion(
    tokens: Sequence[TokenLogprobs],
    texts: Texts,
    offset: int,
    count: int,
    *,
    first: int | None = None,
) -> dict[str, Any]:
    """A text choice's `logprobs` with `count` alternatives for each token.

    The tokens' text begins at character `offset` of the choice. `first` is a prompt's first token,
    which nothing comes before and so has no value.
    """
    unscored = [] if first is None else [first]
    pieces = [texts[token_id] for token_id in (*unscored, *(one.token_id for one in tokens))]
    offsets = [offset]
    for piece in pieces:
        offsets.append(offsets[-1] + len(piece))
    blanks: list[None] = [None for _ in unscored]
    return {
        "tokens": pieces,
        "token_logprobs": [*blanks, *(one.logprob for one in tokens)],
        "top_logprobs": [*blanks, *(_by_text(one, texts, count) for one in tokens)],
        "text_offset": offsets[:-1],
    }


def joined(prompt: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """A text choice's `logprobs` where it repeats its prompt."""
    return {key: prompt[key] + answer[key] for key in answer}


def prompt(tokens: Iterable[TokenLogprobs], texts: Texts, count: int) -> list[Any]:
    """vLLM's `prompt_logprobs`: by token id, the prompt's own and `count` alternatives."""
    described: list[Any] = [None]
    for one in tokens:
        ranked = [
            (token_id, value, rank) for rank, (token_id, value) in enumerate(one.top[:count], 1)
        ]
        entries = [(one.token_id, one.logprob, one.rank), *ranked]
        described.append(
            {
                str(token_id): {"logprob": value, "rank": rank, "decoded_token": texts[token_id]}
                for token_id, value, rank in reversed(entries)
            }
        )
    return described


def _entry(text: str, value: float) -> dict[str, Any]:
    # a part of a character has bytes that its text does not tell
    data = None if _REPLACEMENT in text else list(text.encode())
    return {"token": text, "logprob": value, "bytes": data}


def _by_text(one: TokenLogprobs, texts: Texts, count: int) -> dict[str, float]:
    """The token's own value and the alternatives'; of equal texts the likeliest counts."""
    entries = [*one.top[:count], (one.token_id, one.logprob)]
    found: dict[str, float] = {}
    for token_id, value in sorted(entries, key=lambda entry: -entry[1]):
        found.setdefault(texts[token_id], value)
    return found
