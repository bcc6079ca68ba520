"""Fits prompts, passages and answers into a model's context."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from mesh.context import RequestContext
from mesh.errors import invalid
from services.gateway.domain.documents import Passage
from services.gateway.domain.errors import too_long
from services.gateway.domain.generation import ChatPrompt, Defaults, Model, Sampling
from services.gateway.domain.ports import Tokenizer
from services.gateway.domain.request import Message, Options

# these change nothing in a greedy answer: equal answers get equal cache keys
_GREEDY: dict[str, Any] = {
    "temperature": 0.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "seed": None,
}
_DEFAULTS = frozenset(field.name for field in dataclasses.fields(Defaults)) - {"max_tokens"}


async def ground(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    passages: Sequence[Passage],
    most_tokens: int,
    context: RequestContext,
) -> tuple[tuple[Passage, ...], ChatPrompt]:
    """Return the passages that fit, best first, and the grounded prompt.

    The lowest scores are dropped until the prompt has at most `most_tokens`; without any passage
    it may still have more.
    """
    ranked = sorted(passages, key=lambda passage: passage.score, reverse=True)

    async def prompt_with(count: int) -> ChatPrompt:
        texts = [passage.text for passage in ranked[:count]]
        return await tokenizer.encode_chat(messages, context, texts)

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


def copying(options: Options) -> Options:
    """Keep the model's repetition penalty off an answer from passages, whose words it repeats."""
    return dataclasses.replace(options, unset=options.unset - {"repetition_penalty"})


def shortened(options: Options, model: Model, prompt_tokens: int) -> Options:
    """Lower max_tokens to the room beside passages: their length is not the caller's doing."""
    sampling = options.sampling
    room = model.context_length - prompt_tokens
    if not 0 < room < sampling.max_tokens < model.context_length:
        return options
    min_tokens = min(sampling.min_tokens, room)
    sampling = dataclasses.replace(sampling, max_tokens=room, min_tokens=min_tokens)
    return dataclasses.replace(options, sampling=sampling)


def check_ids(field: str, prompt: Sequence[int], model: Model) -> None:
    """Refuse ids outside the model's vocabulary, and a prompt without tokens."""
    if not prompt:
        raise invalid(field, f"{field} must have at least one token.")
    if max(prompt) >= model.vocab_size:
        raise invalid(field, f"{field} holds a token id that is not below {model.vocab_size}.")


def complete(
    options: Options, model: Model, prompt: Sequence[int], field: str, default_max_tokens: int
) -> Sampling:
    """Return how to draw the answer to one prompt; refuse what the context cannot hold.

    The model's defaults count where the request is silent, then `default_max_tokens`.
    """
    max_tokens = _max_tokens(options, model, prompt, field, default_max_tokens)
    most = 0 if options.prompt_only else max_tokens
    if options.sampling.min_tokens > most:
        raise invalid("min_tokens", f"min_tokens must be at most {most} here.")
    _check_named_ids(options.sampling, model)
    defaults = {name: getattr(model.defaults, name) for name in _DEFAULTS & options.unset}
    # a stop token's text is kept as a stop string is
    sampling = dataclasses.replace(
        options.sampling,
        **defaults,
        max_tokens=max_tokens,
        include_stop_token=options.include_stop,
    )
    if sampling.top_k >= model.vocab_size:
        sampling = dataclasses.replace(sampling, top_k=0)
    if sampling.is_beam_search:
        return dataclasses.replace(sampling, **_GREEDY, repetition_penalty=1.0)
    return dataclasses.replace(sampling, **_GREEDY) if sampling.temperature == 0 else sampling


def _max_tokens(
    options: Options, model: Model, prompt: Sequence[int], field: str, default_max_tokens: int
) -> int:
    room = model.context_length - len(prompt)
    if room < 1:
        raise too_long(
            field,
            f"The model's context is {model.context_length} tokens; {field} has {len(prompt)},"
            " which leaves no room for an answer.",
        )
    if options.prompt_only:
        # the engine draws one token at least, which nobody is told
        return 1
    max_tokens = options.sampling.max_tokens
    if not max_tokens:
        most = model.defaults.max_tokens or default_max_tokens
        return min(room, max(most, options.sampling.min_tokens))
    if max_tokens > room:
        name = options.max_tokens_field
        raise too_long(
            name,
            f"{name} is {max_tokens}, but the model's context of {model.context_length} tokens"
            f" leaves {room} beside the {len(prompt)} of {field}.",
        )
    return max_tokens


def _check_named_ids(sampling: Sampling, model: Model) -> None:
    named = {
        "stop_token_ids": sampling.stop_token_ids,
        "allowed_token_ids": sampling.allowed_token_ids,
        "bad_token_ids": sampling.bad_token_ids,
        "logit_bias": tuple(token_id for token_id, _ in sampling.logit_bias),
    }
    for name, ids in named.items():
        if any(token_id >= model.vocab_size for token_id in ids):
            raise invalid(name, f"{name} must be below {model.vocab_size}.")
    banned = set(sampling.bad_token_ids)
    if sampling.min_tokens > 0:
        eos_token_ids = () if sampling.ignore_eos else model.eos_token_ids
        banned.update(sampling.stop_token_ids, eos_token_ids)
    if sampling.allowed_token_ids and banned.issuperset(sampling.allowed_token_ids):
        raise invalid("allowed_token_ids", "allowed_token_ids leaves no token to choose.")
    if len(banned) >= model.vocab_size:
        raise invalid("bad_token_ids", "bad_token_ids leaves no token to choose.")
