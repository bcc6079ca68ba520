"""Request fields that chat and text completions share, and those accepted while they do nothing.

Pure, like `openai`: what depends on the model is the pipeline's to check.
"""

from dataclasses import dataclass
from typing import Any

from mesh.errors import invalid
from services.gateway import fields
from services.gateway.fields import Fields

MAX_N = 8
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 1024
MAX_STOP_IDS = 256
MAX_TOKENS = 2**31 - 1
MAX_TOKEN_ID = 2**32 - 1
# a float32 on the wire: anything smaller would arrive as a division by nothing
GREEDY_BELOW = 1e-5
MIN_TOP_P = 1e-6

# accepted with any value: they change nothing in the answer
HARMLESS = (
    "user",
    "metadata",
    "store",
    "service_tier",
    "parallel_tool_calls",
    "safety_identifier",
    "prompt_cache_key",
)
# accepted with values that change nothing, until they are supported
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": (),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": (),
    "tool_choice": ("none", "auto"),
    "functions": (),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
    "echo": (False,),
    "suffix": (),
    "best_of": (1,),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What chat and completion requests share; absent values are None, lengths in tokens."""

    model: str
    n: int
    max_tokens: int | None
    max_tokens_field: str
    min_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int | None
    stop: tuple[str, ...]
    include_stop: bool
    stop_token_ids: tuple[int, ...]
    ignore_eos: bool
    stream: bool
    include_usage: bool
    no_store: bool


def options(read: Fields, *, chat: bool) -> Options:
    """Takes the shared fields out of a request; raises MeshError that names the field."""
    max_tokens, max_tokens_field = _max_tokens(read, chat=chat)
    temperature = read.number("temperature", 0, 2)
    top_p = read.number("top_p", 0, 1, above=True)
    top_k = read.integer("top_k", -1, MAX_TOKENS)
    seed = read.integer("seed", -(2**63), 2**64 - 1)
    stream, include_usage = _streaming(read)
    taken = Options(
        model=fields.text("model", read.required("model"), low=1),
        n=read.integer("n", 1, MAX_N) or 1,
        max_tokens=max_tokens,
        max_tokens_field=max_tokens_field,
        min_tokens=read.integer("min_tokens", 0, MAX_TOKENS) or 0,
        temperature=_temperature(temperature),
        top_p=1.0 if top_p is None else max(top_p, MIN_TOP_P),
        top_k=0 if top_k is None else max(top_k, 0),
        seed=None if seed is None else seed % 2**64,
        stop=_stops(read.take("stop")),
        include_stop=read.boolean("include_stop_str_in_output"),
        stop_token_ids=_stop_ids(read.take("stop_token_ids")),
        ignore_eos=read.boolean("ignore_eos"),
        stream=stream,
        include_usage=include_usage,
        no_store=read.choice("cache", ("use", "no-store")) == "no-store",
    )
    for field, values in NEUTRAL.items():
        read.neutral(field, *values)
    read.ignore(*HARMLESS)
    return taken


def token_ids(name: str, value: Any) -> tuple[int, ...]:
    """`value` as a list of at least one token id."""
    if not isinstance(value, list):
        raise fields.wrong_type(name, "a list of token ids", value)
    if not value:
        raise invalid(name, f"{name} must not be empty.")
    return tuple(
        fields.integer(f"{name}[{i}]", entry, 0, MAX_TOKEN_ID) for i, entry in enumerate(value)
    )


def _temperature(value: float | None) -> float:
    if value is None:
        return 1.0
    return 0.0 if value < GREEDY_BELOW else value


def _max_tokens(read: Fields, *, chat: bool) -> tuple[int | None, str]:
    value = read.integer("max_tokens", 1, MAX_TOKENS)
    newer = read.integer("max_completion_tokens", 1, MAX_TOKENS) if chat else None
    if newer is None:
        return value, "max_tokens"
    if value not in (None, newer):
        raise invalid("max_completion_tokens", "max_completion_tokens contradicts max_tokens.")
    return newer, "max_completion_tokens"


def _streaming(read: Fields) -> tuple[bool, bool]:
    stream = read.boolean("stream")
    value = read.take("stream_options")
    if value is None:
        return stream, False
    if not stream:
        raise invalid("stream_options", "stream_options is only allowed with `stream: true`.")
    inner = Fields(value, "stream_options")
    include_usage = inner.boolean("include_usage")
    inner.ignore("include_obfuscation")
    inner.finish()
    return stream, include_usage


def _stops(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        return (fields.text("stop", value, low=1, high=MAX_STOP_CHARACTERS),)
    return fields.texts("stop", value, low=1, high=MAX_STOPS, longest=MAX_STOP_CHARACTERS)


def _stop_ids(value: Any) -> tuple[int, ...]:
    if value is None or value == []:
        return ()
    ids = token_ids("stop_token_ids", value)
    if len(ids) > MAX_STOP_IDS:
        raise invalid("stop_token_ids", f"stop_token_ids must have at most {MAX_STOP_IDS} entries.")
    return ids
