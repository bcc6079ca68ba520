"""Log-probabilities in OpenAI's two forms and in vLLM's for prompts.

`texts` holds the text of every token by id.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from mesh.context import RequestContext
from services.gateway.api.openai.options import Delivery
from services.gateway.domain.generation import Model, TokenLogprobs
from services.gateway.pipeline.plan import Choice
from services.gateway.pipeline.token_text import TokenText

Texts = Mapping[int, str]
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class LogprobsWriter:
    """Describes one request's tokens as they come; None where the request asks for none."""

    def __init__(
        self, token_text: TokenText, model: Model, context: RequestContext, delivery: Delivery
    ) -> None:
        self._token_text = token_text
        self._model = model
        self._context = context
        self._delivery = delivery
        self._offsets: dict[int, int] = {}

    async def chat(self, tokens: Sequence[TokenLogprobs]) -> dict[str, Any] | None:
        """Return a chat choice's `logprobs` of its next tokens."""
        if self._delivery.logprobs is None:
            return None
        return chat(tokens, await self._texts(tokens))

    async def echo(self, choice: Choice, prompt: Sequence[TokenLogprobs]) -> dict[str, Any] | None:
        """Return a text choice's `logprobs` of the prompt it repeats; before `completion`."""
        self._offsets[choice.index] = len(choice.echo or "")
        count = self._delivery.logprobs
        if count is None or choice.echo is None:
            return None
        first = choice.request.prompt_token_ids[0]
        texts = await self._texts(prompt, {first})
        return completion(prompt, texts, 0, count, first=first)

    async def completion(
        self, choice: Choice, tokens: Sequence[TokenLogprobs]
    ) -> dict[str, Any] | None:
        """Return a text choice's `logprobs` of its next tokens."""
        count = self._delivery.logprobs
        if count is None:
            return None
        texts = await self._texts(tokens)
        offset = self._offsets.get(choice.index, 0)
        self._offsets[choice.index] = offset + sum(len(texts[one.token_id]) for one in tokens)
        return completion(tokens, texts, offset, count)

    async def prompt(self, tokens: Sequence[TokenLogprobs]) -> dict[str, Any]:
        """Return the field `prompt_logprobs` where the request asks for it, else nothing."""
        count = self._delivery.prompt_logprobs
        if count is None:
            return {}
        return {"prompt_logprobs": prompt(tokens, await self._texts(tokens), count)}

    async def _texts(self, tokens: Sequence[TokenLogprobs], others: Collection[int] = ()) -> Texts:
        named = token_ids(tokens).union(others)
        return await self._token_text.texts(self._model, named, self._context)


def token_ids(tokens: Iterable[TokenLogprobs]) -> set[int]:
    """Return all tokens that a description names."""
    named: set[int] = set()
    for one in tokens:
        named.add(one.token_id)
        named.update(token_id for token_id, _ in one.top)
    return named


def chat(tokens: Iterable[TokenLogprobs], texts: Texts) -> dict[str, Any]:
    """Return a chat choice's `logprobs`."""
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
    """Return a text choice's `logprobs` with `count` alternatives for each token.

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
    """Return a text choice's `logprobs` where it repeats its prompt."""
    return {key: prompt[key] + answer[key] for key in answer}


def prompt(tokens: Iterable[TokenLogprobs], texts: Texts, count: int) -> list[Any]:
    """Return vLLM's `prompt_logprobs`: by token id, the prompt's own and `count` alternatives."""
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
    """Return the values by text: the token's and the alternatives', of equal texts the best."""
    entries = [*one.top[:count], (one.token_id, one.logprob)]
    by_text: dict[str, float] = {}
    for token_id, value in sorted(entries, key=lambda entry: -entry[1]):
        by_text.setdefault(texts[token_id], value)
    return by_text
