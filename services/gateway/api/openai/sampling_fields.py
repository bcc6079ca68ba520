"""Request fields that chat and text completions share, and those accepted while they do nothing.

Pure, like `openai`: what depends on the model is the pipeline's to check.
"""

from dataclasses import dataclass
from typing import Any

from mesh.errors import invalid
from services.gateway.api import fields
from services.gateway.api.fields import Fields

MAX_N = 16
MAX_LOGPROBS = 20
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 1024
MAX_STOP_IDS = 256
MAX_NAMED_IDS = 4096
MAX_BIAS = 100
MAX_REPETITION_PENALTY = 10
MAX_LENGTH_PENALTY = 10
MAX_PRIORITY = 100
MAX_TOKENS = 2**31 - 1
MAX_TOKEN_ID = 2**32 - 1
# a float32 on the wire: anything smaller would arrive as a division by nothing
GREEDY_BELOW = 1e-5
MIN_SHARE = 1e-6

# what a beam search does not heed may only have these values beside it
WITH_BEAMS: dict[str, tuple[float | None, ...]] = {
    "temperature": (None, 0.0, 1.0),
    "top_p": (None, 1.0),
    "top_k": (None, 0),
    "min_p": (None, 0.0),
    "typical_p": (1.0,),
    "repetition_penalty": (None, 1.0),
    "frequency_penalty": (0.0,),
    "presence_penalty": (0.0,),
    "logprobs": (None,),
    "prompt_logprobs": (None,),
}

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
    "suffix": (),
}


@dataclass(frozen=True, slots=True)
class Beams:
    """A beam search instead of draws; its width is the request's `best_of`."""

    length_penalty: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What chat and completion requests share; absent values are None, lengths in tokens.

    `logprobs` and `prompt_logprobs` count the alternatives beside each token's own. `best_of`
    sequences are drawn per prompt, or searched with `beams`, of which the `n` best are answered.
    `echo` repeats the prompt. A lower `priority` goes first.
    """

    model: str
    n: int
    best_of: int
    echo: bool
    max_tokens: int | None
    max_tokens_field: str
    min_tokens: int
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    typical_p: float
    repetition_penalty: float | None
    frequency_penalty: float
    presence_penalty: float
    logit_bias: tuple[tuple[int, float], ...]
    allowed_token_ids: tuple[int, ...]
    bad_token_ids: tuple[int, ...]
    logprobs: int | None
    prompt_logprobs: int | None
    seed: int | None
    stop: tuple[str, ...]
    include_stop: bool
    stop_token_ids: tuple[int, ...]
    ignore_eos: bool
    priority: int
    stream: bool
    include_usage: bool
    no_store: bool
    beams: Beams | None


def options(read: Fields, *, chat: bool) -> Options:
    """Takes the shared fields out of a request; raises MeshError that names the field."""
    max_tokens, max_tokens_field = _max_tokens(read, chat=chat)
    temperature = read.number("temperature", 0, 2)
    top_p = read.number("top_p", 0, 1, above=True)
    top_k = read.integer("top_k", -1, MAX_TOKENS)
    seed = read.integer("seed", -(2**63), 2**64 - 1)
    stream, include_usage = _streaming(read)
    n = read.integer("n", 1, MAX_N) or 1
    beams = _beams(read, stream=stream)
    taken = Options(
        model=fields.text("model", read.required("model"), low=1),
        n=n,
        best_of=n if chat and beams is None else _best_of(read, n, stream=stream),
        echo=False if chat else read.boolean("echo"),
        max_tokens=max_tokens,
        max_tokens_field=max_tokens_field,
        min_tokens=read.integer("min_tokens", 0, MAX_TOKENS) or 0,
        temperature=_temperature(temperature),
        top_p=_share(top_p),
        top_k=None if top_k is None else max(top_k, 0),
        min_p=read.number("min_p", 0, 1),
        typical_p=_share(read.number("typical_p", 0, 1, above=True)) or 1.0,
        repetition_penalty=_share(
            read.number("repetition_penalty", 0, MAX_REPETITION_PENALTY, above=True)
        ),
        frequency_penalty=read.number("frequency_penalty", -2, 2) or 0.0,
        presence_penalty=read.number("presence_penalty", -2, 2) or 0.0,
        logit_bias=_logit_bias(read.take("logit_bias")),
        allowed_token_ids=_some_ids("allowed_token_ids", read, MAX_NAMED_IDS),
        bad_token_ids=_some_ids("bad_token_ids", read, MAX_NAMED_IDS),
        logprobs=_chat_logprobs(read) if chat else read.integer("logprobs", 0, MAX_LOGPROBS),
        prompt_logprobs=_prompt_logprobs(read, stream=stream),
        seed=None if seed is None else seed % 2**64,
        stop=_stops(read.take("stop")),
        include_stop=read.boolean("include_stop_str_in_output"),
        stop_token_ids=_some_ids("stop_token_ids", read, MAX_STOP_IDS),
        ignore_eos=read.boolean("ignore_eos"),
        priority=read.integer("priority", -MAX_PRIORITY, MAX_PRIORITY) or 0,
        stream=stream,
        include_usage=include_usage,
        no_store=read.choice("cache", ("use", "no-store")) == "no-store",
        beams=beams,
    )
    if beams is not None:
        _check_beams(taken)
    if chat:
        read.neutral("echo", False)
        read.neutral("best_of", 1)
    else:
        read.neutral("top_logprobs", 0)
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


def _temperature(value: float | None) -> float | None:
    return 0.0 if value is not None and value < GREEDY_BELOW else value


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


def _some_ids(name: str, read: Fields, most: int) -> tuple[int, ...]:
    value = read.take(name)
    if value is None or value == []:
        return ()
    ids = token_ids(name, value)
    if len(ids) > most:
        raise invalid(name, f"{name} must have at most {most} entries.")
    return ids


def _share(value: float | None) -> float | None:
    """A share or factor that must not become 0 as a float32."""
    return None if value is None else max(value, MIN_SHARE)


def _best_of(read: Fields, n: int, *, stream: bool) -> int:
    best_of = read.integer("best_of", 1, MAX_N) or n
    if best_of < n:
        raise invalid("best_of", "best_of must be at least n.")
    if best_of > n and stream:
        raise invalid("best_of", "best_of must be n with `stream: true`.")
    return best_of


def _beams(read: Fields, *, stream: bool) -> Beams | None:
    wanted = read.boolean("use_beam_search")
    penalty = read.number("length_penalty", -MAX_LENGTH_PENALTY, MAX_LENGTH_PENALTY)
    read.neutral("early_stopping", False)
    if not wanted:
        if penalty not in (None, 1):
            raise invalid(
                "length_penalty", "length_penalty is only allowed with `use_beam_search: true`."
            )
        return None
    if stream:
        raise invalid("stream", "stream is not allowed with `use_beam_search: true`.")
    return Beams(1.0 if penalty is None else penalty)


def _check_beams(options: Options) -> None:
    """Refuses what a beam search would not heed, and a search that is none."""
    if options.best_of < 2:
        raise invalid(
            "best_of", "best_of or n must be at least 2 with `use_beam_search: true`: the width."
        )
    for field, allowed in WITH_BEAMS.items():
        if getattr(options, field) not in allowed:
            raise invalid(field, f"{field} is not allowed with `use_beam_search: true`.")


def _chat_logprobs(read: Fields) -> int | None:
    wanted = read.boolean("logprobs")
    top = read.integer("top_logprobs", 0, MAX_LOGPROBS)
    if top and not wanted:
        raise invalid("top_logprobs", "top_logprobs is only allowed with `logprobs: true`.")
    return (top or 0) if wanted else None


def _prompt_logprobs(read: Fields, *, stream: bool) -> int | None:
    count = read.integer("prompt_logprobs", 0, MAX_LOGPROBS)
    if count is not None and stream:
        raise invalid("prompt_logprobs", "prompt_logprobs is not allowed with `stream: true`.")
    return count


def _logit_bias(value: Any) -> tuple[tuple[int, float], ...]:
    """Bias by token id, in the order of the ids: equal requests get equal cache keys."""
    if value is None:
        return ()
    inner = Fields(value, "logit_bias")
    if len(value) > MAX_NAMED_IDS:
        raise invalid("logit_bias", f"logit_bias must have at most {MAX_NAMED_IDS} entries.")
    found: dict[int, float] = {}
    for key in value:
        is_id = key.isascii() and key.isdecimal() and len(key) <= len(str(MAX_TOKEN_ID))
        if not is_id or int(key) > MAX_TOKEN_ID:
            raise invalid("logit_bias", "logit_bias must have token ids as its keys.")
        bias = inner.number(key, -MAX_BIAS, MAX_BIAS)
        if bias is not None:
            found[int(key)] = bias
    return tuple(sorted(found.items()))
