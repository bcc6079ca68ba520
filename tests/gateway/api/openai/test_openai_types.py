"""Our request fields beside those of the official package's types: a new one is seen here."""

from typing import Any

import pytest
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import (
    ChatCompletionAssistantMessageParam,
    ChatCompletionContentPartTextParam,
    ChatCompletionDeveloperMessageParam,
    ChatCompletionStreamOptionsParam,
    ChatCompletionSystemMessageParam,
    ChatCompletionUserMessageParam,
)
from openai.types.chat import (
    completion_create_params as chat_create_params,
)

from services.gateway.api.openai.chat import read_chat
from services.gateway.api.openai.completions import read_completion
from services.gateway.api.openai.embeddings import read_embedding

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
COMPLETION: dict[str, Any] = {"model": "m", "prompt": "Hi"}
EMBEDDING: dict[str, Any] = {"model": "m", "input": "Hi"}
# what is given where a field is documented to take it and nothing of an answer depends on it
NEUTRAL: dict[str, Any] = {
    "logprobs": False,
    "metadata": {"a": "b"},
    "modalities": ["text"],
    "moderation": {"model": "omni-moderation-latest"},
    "n": 128,
    "parallel_tool_calls": True,
    "prompt_cache_key": "k",
    "prompt_cache_options": {"mode": "implicit"},
    "prompt_cache_retention": "24h",
    "response_format": {"type": "text"},
    "safety_identifier": "x",
    "service_tier": "auto",
    "store": True,
    "temperature": 2,
    "tool_choice": "none",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 0,
    "user": "u",
    "verbosity": "medium",
}
# the ends of OpenAI's ranges (the API reference, create chat completion and create completion)
RANGES: dict[str, list[Any]] = {
    "frequency_penalty": [-2, 2],
    "presence_penalty": [-2, 2],
    "temperature": [0, 2],
    "top_p": [0, 1],
    "n": [1, 128],
    "logit_bias": [{"5": -100, "6": 100}],
    "seed": [-(2**63), 2**63 - 1],
    "stop": ["x", ["a", "b", "c", "d"]],
    "user": ["", "u" * 1000],
}
COMPLETION_RANGES = RANGES | {"best_of": [0, 20], "max_tokens": [0, 16], "logprobs": [0, 5]}


def fields(*types: Any) -> list[str]:
    """The keys of typed dictionaries."""
    return sorted(set().union(*(t.__required_keys__ | t.__optional_keys__ for t in types)))


@pytest.mark.parametrize(
    "field",
    fields(
        chat_create_params.CompletionCreateParamsNonStreaming,
        chat_create_params.CompletionCreateParamsStreaming,
    ),
)
def test_every_field_of_a_chat_is_known(field: str) -> None:
    """Supported, without meaning, or refused by name unless it changes nothing."""
    read_chat({**CHAT, field: CHAT.get(field)}, 16)
    if field in NEUTRAL:
        read_chat({**CHAT, field: NEUTRAL[field]}, 16)


@pytest.mark.parametrize(
    "field",
    fields(
        completion_create_params.CompletionCreateParamsNonStreaming,
        completion_create_params.CompletionCreateParamsStreaming,
    ),
)
def test_every_field_of_a_completion_is_known(field: str) -> None:
    """As for chats."""
    read_completion({**COMPLETION, field: COMPLETION.get(field)}, 16)


@pytest.mark.parametrize("field", fields(embedding_create_params.EmbeddingCreateParams))
def test_every_field_of_an_embedding_is_known(field: str) -> None:
    """As for chats."""
    read_embedding({**EMBEDDING, field: EMBEDDING.get(field)})


@pytest.mark.parametrize("field", fields(ChatCompletionStreamOptionsParam))
def test_every_stream_option_is_known(field: str) -> None:
    """In both endpoints."""
    options = {"stream": True, "stream_options": {field: False}}
    read_chat({**CHAT, **options}, 16)
    read_completion({**COMPLETION, **options}, 16)


@pytest.mark.parametrize(
    ("role", "kind"),
    [
        ("user", ChatCompletionUserMessageParam),
        ("system", ChatCompletionSystemMessageParam),
        ("developer", ChatCompletionDeveloperMessageParam),
        ("assistant", ChatCompletionAssistantMessageParam),
    ],
)
def test_every_field_of_a_message_is_known(role: str, kind: Any) -> None:
    """Of the roles that we take, and of a part of text."""
    message = {"role": role, "content": "Hi"}
    for field in fields(kind):
        read_chat({**CHAT, "messages": [{**message, field: message.get(field)}]}, 16)
    part = {"type": "text", "text": "Hi"}
    for field in fields(ChatCompletionContentPartTextParam):
        given = {**part, field: part.get(field)}
        read_chat({**CHAT, "messages": [{"role": role, "content": [given]}]}, 16)


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field in RANGES for value in RANGES[field]]
)
def test_a_chat_takes_the_ends_of_openais_ranges(field: str, value: Any) -> None:
    """No client is refused for a value that the reference allows."""
    read_chat({**CHAT, field: value}, 16)


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field in COMPLETION_RANGES for value in COMPLETION_RANGES[field]],
)
def test_a_completion_takes_the_ends_of_openais_ranges(field: str, value: Any) -> None:
    """As for chats."""
    read_completion({**COMPLETION, field: value}, 16)
