"""Bodies of chat and text completions: refusals name the field, the rest is read as meant."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.errors import Code, MeshError
from services.gateway.api.openai.chat import read_chat
from services.gateway.api.openai.completions import read_completion
from services.gateway.api.openai.options import UNSUPPORTED_UNLESS_DEFAULT, Delivery
from services.gateway.domain.generation import Sampling
from services.gateway.domain.request import Conversation, InferenceRequest

USER = {"role": "user", "content": "Hi"}
CHAT = {"model": "tiny", "messages": [USER]}
TEXT = {"model": "tiny", "prompt": "Hi"}
SURROGATE = "\ud800"

SEARCH = {"use_beam_search": True, "best_of": 3}
BAD_WITH_BEAMS: list[tuple[dict[str, Any], str]] = [
    ({"best_of": 1}, "best_of"),
    ({"best_of": 17}, "best_of"),
    ({"n": 4}, "best_of"),
    ({"stream": True}, "stream"),
    ({"length_penalty": 11}, "length_penalty"),
    ({"length_penalty": "x"}, "length_penalty"),
    ({"early_stopping": True}, "early_stopping"),
    ({"temperature": 0.7}, "temperature"),
    ({"top_p": 0.5}, "top_p"),
    ({"top_k": 5}, "top_k"),
    ({"min_p": 0.5}, "min_p"),
    ({"typical_p": 0.5}, "typical_p"),
    ({"repetition_penalty": 1.5}, "repetition_penalty"),
    ({"frequency_penalty": 1}, "frequency_penalty"),
    ({"presence_penalty": 1}, "presence_penalty"),
    ({"prompt_logprobs": 0}, "prompt_logprobs"),
]

BAD_CHAT: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "model"),
    ({"model": 5}, "model"),
    ({"model": ""}, "model"),
    ({"model": SURROGATE}, "model"),
    ({"messages": None}, "messages"),
    ({"messages": "Hi"}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": [USER] * 5000}, "messages"),
    ({"messages": ["Hi"]}, "messages[0]"),
    ({"messages": [USER, None]}, "messages[1]"),
    ({"messages": [{"content": "Hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "tool", "content": "Hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages[0].role"),
    ({"messages": [{"role": 1, "content": "Hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": SURROGATE}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [{}]}]}, "messages[0].content[0].type"),
    (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "a"}, {"type": "image_url"}],
                }
            ]
        },
        "messages[0].content[1].type",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]},
        "messages[0].content[0].text",
    ),
    ({"messages": [{**USER, "mood": 1}]}, "messages[0].mood"),
    ({"messages": [{**USER, "name": 1}]}, "messages[0].name"),
    (
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]},
        "messages[0].tool_calls",
    ),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"max_tokens": "5"}, "max_tokens"),
    ({"max_tokens": 10**30}, "max_tokens"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_completion_tokens"),
    ({"min_tokens": -1}, "min_tokens"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": float("inf")}, "temperature"),
    ({"temperature": float("nan")}, "temperature"),
    ({"temperature": 10**400}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"priority": 101}, "priority"),
    ({"priority": -101}, "priority"),
    ({"priority": 0.5}, "priority"),
    ({"temperature": False}, "temperature"),
    ({"temperature": [1]}, "temperature"),
    ({"top_p": -0.01}, "top_p"),
    ({"top_p": 1.01}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"top_k": 2.0}, "top_k"),
    ({"n": 0}, "n"),
    ({"n": 129}, "n"),
    ({"n": True}, "n"),
    ({"seed": 2**64}, "seed"),
    ({"seed": -(2**63) - 1}, "seed"),
    ({"seed": 1.0}, "seed"),
    ({"stop": ""}, "stop"),
    ({"stop": 1}, "stop"),
    ({"stop": [1]}, "stop[0]"),
    ({"stop": ["a", ""]}, "stop[1]"),
    ({"stop": ["x"] * 17}, "stop"),
    ({"stop": SURROGATE}, "stop"),
    ({"stop_token_ids": ["a"]}, "stop_token_ids[0]"),
    ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
    ({"stop_token_ids": 5}, "stop_token_ids"),
    ({"ignore_eos": 1}, "ignore_eos"),
    ({"include_stop_str_in_output": "yes"}, "include_stop_str_in_output"),
    ({"stream": "true"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": []}, "stream_options"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x"),
    ({"cache": "never"}, "cache"),
    ({"cache": False}, "cache"),
    ({"retrieval": "docs"}, "retrieval"),
    ({"retrieval": {}}, "retrieval.collection"),
    ({"retrieval": {"collection": ""}}, "retrieval.collection"),
    ({"retrieval": {"collection": "docs", "top_k": 0}}, "retrieval.top_k"),
    ({"retrieval": {"collection": "docs", "top_k": 101}}, "retrieval.top_k"),
    ({"retrieval": {"collection": "docs", "query": ""}}, "retrieval.query"),
    ({"retrieval": {"collection": "docs", "topk": 3}}, "retrieval.topk"),
    ({"presence_penalty": 2.5}, "presence_penalty"),
    ({"presence_penalty": False}, "presence_penalty"),
    ({"frequency_penalty": -3}, "frequency_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"min_p": 1.5}, "min_p"),
    ({"typical_p": 0}, "typical_p"),
    ({"logit_bias": [5]}, "logit_bias"),
    ({"logit_bias": {"five": 1}}, "logit_bias"),
    ({"logit_bias": {"-5": 1}}, "logit_bias"),
    ({"logit_bias": {"4294967296": 1}}, "logit_bias"),
    ({"logit_bias": {"5": 101}}, "logit_bias.5"),
    ({"logit_bias": {str(i): 1 for i in range(5000)}}, "logit_bias"),
    ({"allowed_token_ids": 5}, "allowed_token_ids"),
    ({"bad_token_ids": ["a"]}, "bad_token_ids[0]"),
    ({"logprobs": 3}, "logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"prompt_logprobs": 21}, "prompt_logprobs"),
    ({"prompt_logprobs": 0, "stream": True}, "prompt_logprobs"),
    ({"echo": True}, "echo"),
    ({"best_of": 2}, "best_of"),
    ({"use_beam_search": 1}, "use_beam_search"),
    ({"length_penalty": 2}, "length_penalty"),
    *[({**SEARCH, **change}, field) for change, field in BAD_WITH_BEAMS],
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"tools": [{"type": "function"}]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"modalities": ["audio"]}, "modalities"),
    ({"max_token": 5}, "max_token"),
    ({"prompt": "Hi"}, "prompt"),
    ({"x" * 1000: 5}, "x" * 200),
    ({SURROGATE: 5}, "\\ud800"),
]

BAD_TEXT: list[tuple[dict[str, Any], str]] = [
    ({"prompt": None}, "prompt"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": {}}, "prompt"),
    ({"prompt": 5}, "prompt"),
    ({"prompt": [None]}, "prompt[0]"),
    ({"prompt": [1.5]}, "prompt[0]"),
    ({"prompt": [True]}, "prompt[0]"),
    ({"prompt": [-1]}, "prompt[0]"),
    ({"prompt": [2**32]}, "prompt[0]"),
    ({"prompt": ["a", 1]}, "prompt[1]"),
    ({"prompt": [1, "a"]}, "prompt[1]"),
    ({"prompt": ["a", ""]}, "prompt[1]"),
    ({"prompt": [[1], 2]}, "prompt[1]"),
    ({"prompt": [[1], []]}, "prompt[1]"),
    ({"prompt": [[1, "a"]]}, "prompt[0][1]"),
    ({"prompt": SURROGATE}, "prompt"),
    ({"prompt": ["a"] * 129}, "prompt"),
    ({"prompt": ["a"] * 100, "n": 2}, "prompt"),
    ({"echo": 1}, "echo"),
    ({"suffix": "x"}, "suffix"),
    ({"best_of": 129}, "best_of"),
    ({"best_of": 2, "n": 3}, "best_of"),
    ({"best_of": 2, "stream": True}, "best_of"),
    ({**SEARCH, "logprobs": 0}, "logprobs"),
    *[({**SEARCH, **change}, field) for change, field in BAD_WITH_BEAMS],
    ({"prompt": ["a"] * 100, "best_of": 2}, "prompt"),
    ({"logprobs": 21}, "logprobs"),
    ({"logprobs": True}, "logprobs"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"max_completion_tokens": 3}, "max_completion_tokens"),
    ({"retrieval": {"collection": "docs"}}, "retrieval"),
    ({"messages": []}, "messages"),
]


def chat(body: Any) -> InferenceRequest:
    return read_chat(body, 1024)[0]


def completion(body: Any) -> InferenceRequest:
    return read_completion(body, 256)[0]


def refusal(read: Any, body: Any) -> MeshError:
    with pytest.raises(MeshError) as caught:
        read(body)
    return caught.value


@pytest.mark.parametrize(("change", "field"), BAD_CHAT, ids=str)
def test_bad_chat_names_the_field(change: dict[str, Any], field: str) -> None:
    """Every bad chat field is an INVALID_ARGUMENT that names it, in the message too."""
    error = refusal(chat, {**CHAT, **change})
    assert (error.code, error.field) == (Code.INVALID_ARGUMENT, field)
    assert field in error.message


@pytest.mark.parametrize(("change", "field"), BAD_TEXT, ids=str)
def test_bad_completion_names_the_field(change: dict[str, Any], field: str) -> None:
    """Every bad completion field is an INVALID_ARGUMENT that names it."""
    error = refusal(completion, {**TEXT, **change})
    assert (error.code, error.field) == (Code.INVALID_ARGUMENT, field)


@pytest.mark.parametrize("body", [None, [], "x", 5, True])
def test_body_must_be_an_object(body: Any) -> None:
    """A body of another type is refused as such."""
    assert refusal(chat, body).field == "body"


@pytest.mark.parametrize("field", UNSUPPORTED_UNLESS_DEFAULT)
@pytest.mark.parametrize("value", [None, [], {}])
def test_neutral_values_are_accepted(field: str, value: Any) -> None:
    """What asks for nothing is accepted, whatever the client's defaults are."""
    chat({**CHAT, field: value})


def test_what_clients_send_without_meaning_it_is_accepted() -> None:
    """Defaults of common clients, harmless fields, and replayed assistant messages pass."""
    replayed = {
        "role": "assistant",
        "content": "x",
        "refusal": None,
        "annotations": [],
        "tool_calls": None,
    }
    request = chat(
        {
            **CHAT,
            "messages": [USER, replayed, USER],
            "presence_penalty": 0,
            "frequency_penalty": 0.0,
            "logprobs": False,
            "n": 1,
            "user": "me",
            "metadata": {"a": "b"},
            "tool_choice": "auto",
            "response_format": {"type": "text"},
            "stop": None,
        }
    )
    assert isinstance(request.prompt, Conversation)
    assert [m.role for m in request.prompt.messages] == ["user", "assistant", "user"]


def test_defaults() -> None:
    """Absent fields mean what OpenAI says they mean; what a model may decide is left open."""
    request, delivery = read_chat(CHAT, 1024)
    options = request.options
    assert (options.n, options.best_of, options.priority, options.stop) == (1, 1, 0, ())
    assert (options.sampling, delivery) == (Sampling(), Delivery())
    undecided = {"max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty"}
    assert undecided <= options.unset and request.default_max_tokens == 1024


def test_given_fields_are_not_the_models_to_decide() -> None:
    """A value counts as given even where it is what an absent one means."""
    options = chat({**CHAT, "temperature": 1, "top_k": 0, "max_tokens": 5}).options
    assert not options.unset & {"temperature", "top_k", "max_tokens"}
    assert "top_p" in options.unset


def test_beam_search_in_both_endpoints() -> None:
    """The width is best_of, or n; of a search that nobody asked for nothing is left."""
    searched = chat({**CHAT, "use_beam_search": True, "n": 2, "temperature": 0}).options
    sampling = searched.sampling
    assert (sampling.n, sampling.beam_width, sampling.length_penalty) == (2, 2, 1.0)
    assert (searched.best_of, searched.runs_per_prompt) == (2, 1)
    sampling = completion({**TEXT, **SEARCH, "length_penalty": 0}).options.sampling
    assert (sampling.n, sampling.beam_width, sampling.length_penalty) == (1, 3, 0.0)
    plain = chat({**CHAT, "use_beam_search": False, "length_penalty": 1}).options.sampling
    assert plain == Sampling()


def test_bias_is_in_the_order_of_the_ids() -> None:
    """Equal biases are equal requests, however their JSON was ordered."""
    first = chat({**CHAT, "logit_bias": {"7": 1, "3": -100, "5": None}}).options.sampling
    second = chat({**CHAT, "logit_bias": {"3": -100.0, "7": 1.0}}).options.sampling
    assert first.logit_bias == second.logit_bias == ((3, -100.0), (7, 1.0))


def test_values_that_float32_would_lose() -> None:
    """A temperature that would underflow is greedy; a top_p that would be 0 is not."""
    sampling = chat({**CHAT, "temperature": 1e-50, "top_p": 1e-50, "top_k": -1}).options.sampling
    assert sampling.temperature == 0
    assert sampling.top_p > 1e-7 and sampling.top_k == 0


def test_negative_seeds_stay_apart() -> None:
    """Signed seeds map onto the wire's unsigned ones."""
    assert chat({**CHAT, "seed": -1}).options.sampling.seed == 2**64 - 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = sorted(
    {*UNSUPPORTED_UNLESS_DEFAULT, *(f for change, _ in BAD_CHAT + BAD_TEXT for f in change)}
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4), st.booleans())
def test_any_json_is_read_or_refused(change: dict[str, Any], is_chat: bool) -> None:
    """Whatever the fields hold, the outcome is a request or a refusal that names a field."""
    try:
        if is_chat:
            chat({**CHAT, **change})
        else:
            completion({**TEXT, **change})
    except MeshError as error:
        assert error.code is Code.INVALID_ARGUMENT and error.field
