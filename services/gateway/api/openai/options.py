"""Request fields that all endpoints for text share, and those accepted while they do nothing.

What depends on the model is for the pipeline to check.
"""

from dataclasses import dataclass
from typing import Any

from mesh.errors import invalid
from services.gateway.api.fields import Fields, text, texts
from services.gateway.api.openai.sampling_fields import MAX_LOGPROBS, check_beams, read_sampling
from services.gateway.domain.request import MAX_PRIORITY, Options

# OpenAI's
MAX_N = 128
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 1024
MAX_LENGTH_PENALTY = 10

# accepted with any value: they change nothing in the answer
IGNORED = (
    "user",
    "metadata",
    "store",
    "service_tier",
    "parallel_tool_calls",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt_cache_options",
    "moderation",
    # vLLM's
    "request_id",
)
# accepted with values that change nothing, until they are supported
UNSUPPORTED_UNLESS_DEFAULT: dict[str, tuple[Any, ...]] = {
    "tools": (),
    "tool_choice": ("none", "auto"),
    "functions": (),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "web_search_options": (),
    "suffix": (),
    # vLLM's, which its clients send with their defaults
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "truncate_prompt_tokens": (),
}


@dataclass(frozen=True, slots=True)
class Delivery:
    """How the answer is to be written; nothing here changes what is generated.

    `logprobs` and `prompt_logprobs` count the alternatives told beside each token's own.
    """

    stream: bool = False
    include_usage: bool = False
    no_store: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None


def read_delivery(read: Fields, logprobs: int | None) -> Delivery:
    """Take the fields that say how to answer; the endpoint has read its own `logprobs`."""
    stream, include_usage = _streaming(read)
    prompt_logprobs = read.integer("prompt_logprobs", 0, MAX_LOGPROBS)
    if prompt_logprobs is not None and stream:
        raise invalid("prompt_logprobs", "prompt_logprobs is not allowed with `stream: true`.")
    no_store = read.choice("cache", ("use", "no-store")) == "no-store"
    return Delivery(stream, include_usage, no_store, logprobs, prompt_logprobs)


def read_options(
    read: Fields,
    delivery: Delivery,
    *,
    n: int,
    best_of: int,
    length_penalty: float | None,
    max_tokens: int | None,
    max_tokens_field: str = "max_tokens",
    echo: bool = False,
    prompt_only: bool = False,
) -> Options:
    """Take the fields that say how to continue a prompt, and refuse what is not supported.

    A `length_penalty` asks for a beam search. The arguments are what the endpoint read.
    """
    searches = length_penalty is not None
    sampling, unset = read_sampling(
        read,
        max_tokens=max_tokens,
        logprobs=_scored(delivery, ranked=best_of > n and not searches),
        prompt_logprobs=_prompt_scored(delivery, echo=echo),
        n=n if searches else 1,
        beam_width=best_of if searches else 0,
        length_penalty=length_penalty,
    )
    if searches:
        check_beams(sampling)
    options = Options(
        model=text("model", read.required("model"), low=1),
        n=n,
        best_of=best_of,
        sampling=sampling,
        unset=unset,
        max_tokens_field=max_tokens_field,
        prompt_only=prompt_only,
        stop=_stops(read.take("stop")),
        include_stop=read.boolean("include_stop_str_in_output"),
        priority=read.integer("priority", -MAX_PRIORITY, MAX_PRIORITY) or 0,
    )
    for field, values in UNSUPPORTED_UNLESS_DEFAULT.items():
        read.only_default(field, *values)
    read.ignore(*IGNORED)
    return options


def read_n(read: Fields) -> int:
    """Take how many choices a prompt gets."""
    return read.integer("n", 1, MAX_N) or 1


def read_best_of(read: Fields, n: int, *, stream: bool) -> int:
    """Take how many sequences, or beams, the choices are the best of."""
    best_of = read.integer("best_of", 0, MAX_N) or n
    if best_of < n:
        raise invalid("best_of", "best_of must be at least n.")
    if best_of > n and stream:
        raise invalid("best_of", "best_of must be n with `stream: true`.")
    return best_of


def read_beam_search(read: Fields, *, stream: bool) -> float | None:
    """Take the length penalty of a beam search; None where none is asked for."""
    wanted = read.boolean("use_beam_search")
    penalty = read.number("length_penalty", -MAX_LENGTH_PENALTY, MAX_LENGTH_PENALTY)
    read.only_default("early_stopping", False)
    if not wanted:
        if penalty not in (None, 1):
            raise invalid(
                "length_penalty", "length_penalty is only allowed with `use_beam_search: true`."
            )
        return None
    if stream:
        raise invalid("stream", "stream is not allowed with `use_beam_search: true`.")
    return 1.0 if penalty is None else penalty


def _scored(delivery: Delivery, *, ranked: bool) -> int | None:
    """Return what to ask for: the best of several are told by their log-probabilities."""
    return 0 if delivery.logprobs is None and ranked else delivery.logprobs


def _prompt_scored(delivery: Delivery, *, echo: bool) -> int | None:
    """Return what to ask for: an echoed prompt is described like the answer."""
    echoed = delivery.logprobs if echo else None
    counts = [count for count in (echoed, delivery.prompt_logprobs) if count is not None]
    return max(counts, default=None)


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
        return (text("stop", value, low=1, high=MAX_STOP_CHARACTERS),)
    return texts("stop", value, low=1, high=MAX_STOPS, longest=MAX_STOP_CHARACTERS)
