"""Request fields that chat and text completions share, and those accepted while they do nothing.

What depends on the model is for the pipeline to check.
"""

from dataclasses import dataclass, fields
from typing import Any

from mesh.errors import invalid
from services.gateway.api.fields import Fields, integer, text, texts, wrong_type
from services.gateway.domain.generation import Sampling
from services.gateway.domain.request import MAX_PRIORITY, Options

MAX_N = 16
MAX_LOGPROBS = 20
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 1024
MAX_STOP_IDS = 256
MAX_NAMED_IDS = 4096
MAX_BIAS = 100
MAX_REPETITION_PENALTY = 10
MAX_LENGTH_PENALTY = 10
MAX_TOKENS = 2**31 - 1
MAX_TOKEN_ID = 2**32 - 1
# a float32 on the wire: anything smaller would arrive as a division by nothing
GREEDY_BELOW = 1e-5
MIN_SHARE = 1e-6

# what a beam search does not heed may only have these values beside it
WITH_BEAMS: dict[str, tuple[float | None, ...]] = {
    "temperature": (0.0, 1.0),
    "top_p": (1.0,),
    "top_k": (0,),
    "min_p": (0.0,),
    "typical_p": (1.0,),
    "repetition_penalty": (1.0,),
    "frequency_penalty": (0.0,),
    "presence_penalty": (0.0,),
    "logprobs": (None,),
    "prompt_logprobs": (None,),
}

# accepted with any value: they change nothing in the answer
IGNORED = (
    "user",
    "metadata",
    "store",
    "service_tier",
    "parallel_tool_calls",
    "safety_identifier",
    "prompt_cache_key",
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
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
    "suffix": (),
}


_SAMPLING_FIELDS = frozenset(field.name for field in fields(Sampling))


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


def read_sampling(read: Fields, **endpoint_fields: Any) -> tuple[Sampling, frozenset[str]]:
    """Take how tokens are drawn; return it with the names of the fields that are not given.

    `endpoint_fields` are those of `Sampling` that the endpoint read; None is not given.
    """
    values = {
        **endpoint_fields,
        "min_tokens": read.integer("min_tokens", 0, MAX_TOKENS),
        "temperature": _temperature(read.number("temperature", 0, 2)),
        "top_p": _share(read.number("top_p", 0, 1, above=True)),
        "top_k": _top_k(read.integer("top_k", -1, MAX_TOKENS)),
        "min_p": read.number("min_p", 0, 1),
        "typical_p": _share(read.number("typical_p", 0, 1, above=True)),
        "repetition_penalty": _share(
            read.number("repetition_penalty", 0, MAX_REPETITION_PENALTY, above=True)
        ),
        "frequency_penalty": read.number("frequency_penalty", -2, 2),
        "presence_penalty": read.number("presence_penalty", -2, 2),
        "logit_bias": _logit_bias(read.take("logit_bias")),
        "allowed_token_ids": _some_ids("allowed_token_ids", read, MAX_NAMED_IDS),
        "bad_token_ids": _some_ids("bad_token_ids", read, MAX_NAMED_IDS),
        "seed": _seed(read.integer("seed", -(2**63), 2**64 - 1)),
        "stop_token_ids": _some_ids("stop_token_ids", read, MAX_STOP_IDS),
        "ignore_eos": read.boolean("ignore_eos"),
    }
    given = {name: value for name, value in values.items() if value is not None}
    return Sampling(**given), _SAMPLING_FIELDS - given.keys()


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
        _check_beams(sampling)
    options = Options(
        model=text("model", read.required("model"), low=1),
        n=n,
        best_of=best_of,
        sampling=sampling,
        unset=unset,
        max_tokens_field=max_tokens_field,
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
    best_of = read.integer("best_of", 1, MAX_N) or n
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


def token_ids(name: str, value: Any) -> tuple[int, ...]:
    """Return `value` as a list of at least one token id."""
    if not isinstance(value, list):
        raise wrong_type(name, "a list of token ids", value)
    if not value:
        raise invalid(name, f"{name} must not be empty.")
    return tuple(integer(f"{name}[{i}]", entry, 0, MAX_TOKEN_ID) for i, entry in enumerate(value))


def _scored(delivery: Delivery, *, ranked: bool) -> int | None:
    """The best of several are told by their log-probabilities, asked for or not."""
    return 0 if delivery.logprobs is None and ranked else delivery.logprobs


def _prompt_scored(delivery: Delivery, *, echo: bool) -> int | None:
    """An echoed prompt has log-probabilities like the answer's."""
    echoed = delivery.logprobs if echo else None
    counts = [count for count in (echoed, delivery.prompt_logprobs) if count is not None]
    return max(counts, default=None)


def _check_beams(sampling: Sampling) -> None:
    """Refuse what a beam search would not heed, and a search that is none."""
    if sampling.beam_width < 2:
        raise invalid(
            "best_of", "best_of or n must be at least 2 with `use_beam_search: true`: the width."
        )
    for field, allowed in WITH_BEAMS.items():
        if getattr(sampling, field) not in allowed:
            raise invalid(field, f"{field} is not allowed with `use_beam_search: true`.")


def _temperature(value: float | None) -> float | None:
    return 0.0 if value is not None and value < GREEDY_BELOW else value


def _top_k(value: int | None) -> int | None:
    return None if value is None else max(value, 0)


def _seed(value: int | None) -> int | None:
    """A signed seed is the wire's unsigned one."""
    return None if value is None else value % 2**64


def _share(value: float | None) -> float | None:
    """A share or factor that must not become 0 as a float32."""
    return None if value is None else max(value, MIN_SHARE)


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


def _some_ids(name: str, read: Fields, most: int) -> tuple[int, ...]:
    value = read.take(name)
    if value is None or value == []:
        return ()
    ids = token_ids(name, value)
    if len(ids) > most:
        raise invalid(name, f"{name} must have at most {most} entries.")
    return ids


def _logit_bias(value: Any) -> tuple[tuple[int, float], ...]:
    """Bias by token id, in the order of the ids: equal requests get equal cache keys."""
    if value is None:
        return ()
    inner = Fields(value, "logit_bias")
    if len(value) > MAX_NAMED_IDS:
        raise invalid("logit_bias", f"logit_bias must have at most {MAX_NAMED_IDS} entries.")
    biases: dict[int, float] = {}
    for key in value:
        is_id = key.isascii() and key.isdecimal() and len(key) <= len(str(MAX_TOKEN_ID))
        if not is_id or int(key) > MAX_TOKEN_ID:
            raise invalid("logit_bias", "logit_bias must have token ids as its keys.")
        bias = inner.number(key, -MAX_BIAS, MAX_BIAS)
        if bias is not None:
            biases[int(key)] = bias
    return tuple(sorted(biases.items()))
