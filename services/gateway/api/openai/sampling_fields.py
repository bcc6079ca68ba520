"""Request fields that say how tokens are drawn."""

from dataclasses import fields
from typing import Any

from mesh.errors import invalid
from services.gateway.api.fields import Fields, integer, wrong_type
from services.gateway.domain.generation import Sampling

MAX_LOGPROBS = 20
# a wide search would hold up the steps of all others
MAX_BEAMS = 16
MAX_STOP_IDS = 256
MAX_NAMED_IDS = 4096
MAX_BIAS = 100
MAX_REPETITION_PENALTY = 10
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

_SAMPLING_FIELDS = frozenset(field.name for field in fields(Sampling))


def read_sampling(read: Fields, **endpoint_fields: Any) -> tuple[Sampling, frozenset[str]]:
    """Take how tokens are drawn; return it with the names of the fields that are not given.

    `endpoint_fields` are those of `Sampling` that the endpoint read; None is not given.
    """
    values = {
        **endpoint_fields,
        "min_tokens": read.integer("min_tokens", 0, MAX_TOKENS),
        "temperature": _temperature(read.number("temperature", 0, 2)),
        "top_p": _share(read.number("top_p", 0, 1)),
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
    return Sampling(**given), _SAMPLING_FIELDS.difference(given)


def token_ids(name: str, value: Any) -> tuple[int, ...]:
    """Return `value` as a list of at least one token id."""
    if not isinstance(value, list):
        raise wrong_type(name, "a list of token ids", value)
    if not value:
        raise invalid(name, f"{name} must not be empty.")
    return tuple(integer(f"{name}[{i}]", entry, 0, MAX_TOKEN_ID) for i, entry in enumerate(value))


def check_beams(sampling: Sampling) -> None:
    """Refuse what a beam search would not heed, and a search that is none."""
    if sampling.beam_width < 2:
        raise invalid(
            "best_of", "best_of or n must be at least 2 with `use_beam_search: true`: the width."
        )
    if sampling.beam_width > MAX_BEAMS:
        raise invalid(
            "best_of", f"best_of must be at most {MAX_BEAMS} with `use_beam_search: true`."
        )
    for field, allowed in WITH_BEAMS.items():
        if getattr(sampling, field) not in allowed:
            raise invalid(field, f"{field} is not allowed with `use_beam_search: true`.")


def _temperature(value: float | None) -> float | None:
    return 0.0 if value is not None and value < GREEDY_BELOW else value


def _top_k(value: int | None) -> int | None:
    return None if value is None else max(value, 0)


def _seed(value: int | None) -> int | None:
    """Return the wire's unsigned form of a signed seed."""
    return None if value is None else value % 2**64


def _share(value: float | None) -> float | None:
    """Keep a share or factor from becoming 0 as a float32."""
    return None if value is None else max(value, MIN_SHARE)


def _some_ids(name: str, read: Fields, most: int) -> tuple[int, ...]:
    value = read.take(name)
    if value is None or value == []:
        return ()
    ids = token_ids(name, value)
    if len(ids) > most:
        raise invalid(name, f"{name} must have at most {most} entries.")
    return ids


def _logit_bias(value: Any) -> tuple[tuple[int, float], ...]:
    """Return bias by token id, in the order of the ids: equal requests get equal cache keys."""
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
