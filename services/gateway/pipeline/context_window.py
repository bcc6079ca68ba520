"""Fits prompts, passages and answers into a model's context. Knows no transport."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from mesh.context import RequestContext
from mesh.errors import invalid
from services.gateway.api.openai.chat import Message
from services.gateway.api.openai.sampling_fields import Options
from services.gateway.domain import errors
from services.gateway.domain.generation import Model, Sampling
from services.gateway.pipeline import grounding

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Passage:
    """A retrieved piece of a document; `start` and `end` count characters of its text."""

    id: str
    source: str
    text: str
    score: float
    start: int
    end: int


class Tokenizer(Protocol):
    """The tokenizer service's client; raises MeshError."""

    async def encode(self, texts: Sequence[str], context: RequestContext) -> list[tuple[int, ...]]:
        """Token ids per text."""
        ...

    async def encode_chat(
        self, messages: Sequence[Message], context: RequestContext
    ) -> tuple[int, ...]:
        """Token ids of the rendered conversation, ready for the assistant's turn."""
        ...

    async def decode(
        self, sequences: Sequence[Sequence[int]], context: RequestContext
    ) -> list[str]:
        """The text of each sequence, special tokens by their names."""
        ...


async def ground(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    found: Sequence[Passage],
    most_tokens: int,
    context: RequestContext,
) -> tuple[tuple[Passage, ...], tuple[int, ...]]:
    """The passages that fit, best first, and the grounded prompt.

    The lowest scores are dropped until the prompt has at most `most_tokens`; without any passage
    it may still have more.
    """
    ranked = sorted(found, key=lambda passage: passage.score, reverse=True)

    async def prompt_with(count: int) -> tuple[int, ...]:
        texts = [passage.text for passage in ranked[:count]]
        return await tokenizer.encode_chat(grounded(messages, texts), context)

    count, prompt = len(ranked), await prompt_with(len(ranked))
    if count == 0 or len(prompt) <= most_tokens:
        return tuple(ranked), prompt
    # the length grows with the count: halve what lies between a fit and an overflow
    count, prompt, overflow = 0, await prompt_with(0), len(ranked)
    while overflow - count > 1:
        middle = (count + overflow) // 2
        tried = await prompt_with(middle)
        if len(tried) <= most_tokens:
            count, prompt = middle, tried
        else:
            overflow = middle
    return tuple(ranked[:count]), prompt


def grounded(messages: Sequence[Message], texts: Sequence[str]) -> list[Message]:
    """The conversation behind one system message that holds the caller's own and the passages."""
    system = "\n\n".join(m.content for m in messages if m.role == "system")
    head = Message("system", grounding.render(texts, system))
    return [head, *(m for m in messages if m.role != "system")]


def shortened(options: Options, model: Model, prompt_tokens: int) -> Options:
    """Lowers max_tokens to the room beside passages: their length is not the caller's doing."""
    room = model.context_length - prompt_tokens
    if options.max_tokens is None or not 0 < room < options.max_tokens < model.context_length:
        return options
    return dataclasses.replace(options, max_tokens=room, min_tokens=min(options.min_tokens, room))


def check_ids(field: str, prompt: Sequence[int], model: Model) -> None:
    """Refuses ids outside the model's vocabulary, and a prompt without tokens."""
    if not prompt:
        raise invalid(field, f"{field} must have at least one token.")
    if max(prompt) >= model.vocab_size:
        raise invalid(field, f"{field} holds a token id that is not below {model.vocab_size}.")


def sampling(
    options: Options, model: Model, prompt: Sequence[int], field: str, default_max_tokens: int
) -> Sampling:
    """How to draw the answer to one prompt; refuses what the context cannot hold.

    The model's defaults count where the request is silent, then `default_max_tokens`.
    """
    room = model.context_length - len(prompt)
    if room < 1:
        raise errors.too_long(
            field,
            f"The model's context is {model.context_length} tokens; {field} has {len(prompt)},"
            " which leaves no room for an answer.",
        )
    max_tokens = options.max_tokens
    defaults = model.defaults
    if max_tokens is None:
        most_tokens = defaults.max_tokens or default_max_tokens
        max_tokens = min(room, max(most_tokens, options.min_tokens))
    elif max_tokens > room:
        name = options.max_tokens_field
        raise errors.too_long(
            name,
            f"{name} is {max_tokens}, but the model's context of {model.context_length} tokens"
            f" leaves {room} beside the {len(prompt)} of {field}.",
        )
    if options.min_tokens > max_tokens:
        raise invalid("min_tokens", f"min_tokens must be at most {max_tokens} here.")
    _check_named_ids(options, model)
    beams = options.beams
    temperature = _given(options.temperature, defaults.temperature)
    top_k = _given(options.top_k, defaults.top_k)
    greedy = temperature == 0 or beams is not None
    return Sampling(
        max_tokens=max_tokens,
        min_tokens=options.min_tokens,
        temperature=0.0 if greedy else temperature,
        # these change nothing in a greedy answer: equal answers get equal cache keys
        top_k=0 if greedy or top_k >= model.vocab_size else top_k,
        top_p=1.0 if greedy else _given(options.top_p, defaults.top_p),
        min_p=0.0 if greedy else _given(options.min_p, defaults.min_p),
        typical_p=1.0 if greedy else options.typical_p,
        repetition_penalty=1.0
        if beams is not None
        else _given(options.repetition_penalty, defaults.repetition_penalty),
        frequency_penalty=options.frequency_penalty,
        presence_penalty=options.presence_penalty,
        logit_bias=options.logit_bias,
        allowed_token_ids=options.allowed_token_ids,
        bad_token_ids=options.bad_token_ids,
        seed=None if greedy else options.seed,
        stop_token_ids=options.stop_token_ids,
        ignore_eos=options.ignore_eos,
        # the best of several are told by their log-probabilities
        logprobs=0
        if options.logprobs is None and options.best_of > options.n and beams is None
        else options.logprobs,
        prompt_logprobs=_prompt_logprobs(options),
        n=1 if beams is None else options.n,
        beam_width=0 if beams is None else options.best_of,
        length_penalty=None if beams is None else beams.length_penalty,
    )


def _given(value: T | None, default: T) -> T:
    return default if value is None else value


def _prompt_logprobs(options: Options) -> int | None:
    """An echoed prompt has log-probabilities like the answer's."""
    echoed = options.logprobs if options.echo else None
    counts = [count for count in (echoed, options.prompt_logprobs) if count is not None]
    return max(counts, default=None)


def _check_named_ids(options: Options, model: Model) -> None:
    named = {
        "stop_token_ids": options.stop_token_ids,
        "allowed_token_ids": options.allowed_token_ids,
        "bad_token_ids": options.bad_token_ids,
        "logit_bias": tuple(token_id for token_id, _ in options.logit_bias),
    }
    for name, ids in named.items():
        if any(token_id >= model.vocab_size for token_id in ids):
            raise invalid(name, f"{name} must be below {model.vocab_size}.")
    banned = set(options.bad_token_ids)
    if options.min_tokens > 0:
        eos_token_ids = () if options.ignore_eos else model.eos_token_ids
        banned.update(options.stop_token_ids, eos_token_ids)
    if options.allowed_token_ids and banned.issuperset(options.allowed_token_ids):
        raise invalid("allowed_token_ids", "allowed_token_ids leaves no token to choose.")
    if len(banned) >= model.vocab_size:
        raise invalid("bad_token_ids", "bad_token_ids leaves no token to choose.")
