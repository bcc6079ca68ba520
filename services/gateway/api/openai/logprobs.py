"""Log-probabilities in OpenAI's two forms and in vLLM's for prompts.

A token is written as what it adds to its text. One that is no UTF-8 by itself, as a part of a
character is not, has its bytes written out, so that tokens which differ only there stay apart.
`pieces` holds what every token adds by itself, by id.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mesh.context import RequestContext
from services.gateway.api.openai.options import Delivery
from services.gateway.domain.generation import Model, TokenLogprobs, TokenPiece
from services.gateway.pipeline.plan import Choice
from services.gateway.pipeline.token_text import TokenText

Pieces = Mapping[int, TokenPiece]
Spelling = Callable[[TokenPiece], str]


class LogprobsWriter:
    """Describes one request's tokens as they come; None where the request asks for none."""

    def __init__(
        self, token_text: TokenText, model: Model, context: RequestContext, delivery: Delivery
    ) -> None:
        self._token_text = token_text
        self._model = model
        self._context = context
        self._delivery = delivery
        # of the prompts that are repeated, by their numbers: choices may share one
        self._echoed: dict[int, list[TokenPiece]] = {}

    async def chat(self, tokens: Sequence[TokenLogprobs]) -> dict[str, Any] | None:
        """Return a chat choice's `logprobs` of its next tokens."""
        if self._delivery.logprobs is None:
            return None
        return chat(tokens, await self._alternatives(tokens))

    async def echo(self, choice: Choice, prompt: Sequence[TokenLogprobs]) -> dict[str, Any] | None:
        """Return a text choice's `logprobs` of the prompt it repeats."""
        count = self._delivery.logprobs
        if count is None or choice.echo is None:
            return None
        if choice.prompt not in self._echoed:
            self._echoed[choice.prompt] = await self._token_text.within(
                choice.request.prompt_token_ids, choice.echo, self._context
            )
        first, *others = self._echoed[choice.prompt]
        tokens = [replace(one, piece=piece) for one, piece in zip(prompt, others, strict=False)]
        return completion(tokens, await self._alternatives(tokens), count, first=first)

    async def completion(
        self, choice: Choice, tokens: Sequence[TokenLogprobs]
    ) -> dict[str, Any] | None:
        """Return a text choice's `logprobs` of its next tokens."""
        count = self._delivery.logprobs
        if count is None:
            return None
        pieces = await self._alternatives(tokens)
        return completion(tokens, pieces, count, offset=len(choice.echo or ""))

    async def prompt(self, tokens: Sequence[TokenLogprobs], spelled: Spelling) -> dict[str, Any]:
        """Return the field `prompt_logprobs` where the request asks for it, else nothing."""
        count = self._delivery.prompt_logprobs
        if count is None:
            return {}
        named = _top_ids(tokens).union(one.token_id for one in tokens)
        pieces = await self._token_text.pieces(self._model, named, self._context)
        return {"prompt_logprobs": prompt(tokens, pieces, count, spelled)}

    async def _alternatives(self, tokens: Sequence[TokenLogprobs]) -> Pieces:
        """Return the pieces of all tokens that have alternatives, and of those."""
        named = _top_ids(tokens).union(one.token_id for one in tokens if one.top)
        return await self._token_text.pieces(self._model, named, self._context)


def chat_spelling(piece: TokenPiece) -> str:
    """Return a token as chats write it: `\\xf0\\x9f` where it is no UTF-8."""
    return _spelled(piece, "")


def text_spelling(piece: TokenPiece) -> str:
    """Return a token as completions write it: `bytes:\\xf0\\x9f` where it is no UTF-8."""
    return _spelled(piece, "bytes:")


def chat(tokens: Iterable[TokenLogprobs], pieces: Pieces) -> dict[str, Any]:
    """Return a chat choice's `logprobs`."""
    content = [
        {
            **_entry(one.piece, one.logprob),
            "top_logprobs": [_entry(*each) for each in _top(one, pieces, len(one.top))],
        }
        for one in tokens
    ]
    return {"content": content, "refusal": None}


def completion(
    tokens: Sequence[TokenLogprobs],
    pieces: Pieces,
    count: int,
    *,
    offset: int = 0,
    first: TokenPiece | None = None,
) -> dict[str, Any]:
    """Return a text choice's `logprobs` with `count` alternatives for each token.

    The tokens' text begins at character `offset` of the choice. `first` is a prompt's first token,
    which nothing comes before and so has no value.
    """
    unscored = [] if first is None else [first]
    blanks: list[None] = [None for _ in unscored]
    told = [*unscored, *(one.piece for one in tokens)]
    return {
        "tokens": [text_spelling(piece) for piece in told],
        "token_logprobs": [*blanks, *(one.logprob for one in tokens)],
        "top_logprobs": [*blanks, *(_by_text(one, pieces, count) for one in tokens)],
        "text_offset": [offset + piece.offset for piece in told],
    }


def joined(prompt: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """Return a text choice's `logprobs` where it repeats its prompt."""
    return {key: prompt[key] + answer[key] for key in answer}


def prompt(
    tokens: Iterable[TokenLogprobs], pieces: Pieces, count: int, spelled: Spelling
) -> list[Any]:
    """Return vLLM's `prompt_logprobs`: by token id, the prompt's own and `count` alternatives."""
    described: list[Any] = [None]
    for one in tokens:
        ranked = [
            (token_id, value, rank) for rank, (token_id, value) in enumerate(one.top[:count], 1)
        ]
        entries = [(one.token_id, one.logprob, one.rank), *ranked]
        described.append(
            {
                str(token_id): {
                    "logprob": value,
                    "rank": rank,
                    "decoded_token": spelled(pieces[token_id]),
                }
                for token_id, value, rank in reversed(entries)
            }
        )
    return described


def _entry(piece: TokenPiece, value: float) -> dict[str, Any]:
    return {"token": chat_spelling(piece), "logprob": value, "bytes": list(piece.data)}


def _by_text(one: TokenLogprobs, pieces: Pieces, count: int) -> dict[str, float]:
    """Return the values by text: the token's own, and of alternatives of equal text the best."""
    by_text: dict[str, float] = {}
    for piece, value in _top(one, pieces, count):
        by_text.setdefault(text_spelling(piece), value)
    by_text[text_spelling(one.piece)] = one.logprob
    return by_text


def _top(one: TokenLogprobs, pieces: Pieces, count: int) -> list[tuple[TokenPiece, float]]:
    """Return the `count` likeliest tokens in the place of this one, best first.

    What the start of the text takes from it, a space or a prefix, it takes from the others too.
    """
    if not one.top:
        return []
    own, shown = pieces[one.token_id].data, one.piece.data
    taken = own[: -len(shown)] if shown and own.endswith(shown) else b""
    return [
        (one.piece if token_id == one.token_id else _without(taken, pieces[token_id]), value)
        for token_id, value in one.top[:count]
    ]


def _without(taken: bytes, piece: TokenPiece) -> TokenPiece:
    return piece._replace(data=piece.data.removeprefix(taken)) if taken else piece


def _top_ids(tokens: Iterable[TokenLogprobs]) -> set[int]:
    return {token_id for one in tokens for token_id, _ in one.top}


def _spelled(piece: TokenPiece, mark: str) -> str:
    """Return what a token adds, or the name of one that adds nothing."""
    if not piece.data:
        return piece.name
    try:
        return piece.data.decode()
    except UnicodeDecodeError:
        escaped = (chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}" for byte in piece.data)
        return mark + "".join(escaped)
