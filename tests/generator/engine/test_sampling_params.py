"""Sampling parameters check themselves."""

import math
from typing import Any

import pytest

from services.generator.engine import FieldError, ParamError, SamplingParams


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("min_tokens", -1),
        ("min_tokens", 17),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_p", math.nan),
        ("min_p", -0.1),
        ("min_p", math.nan),
        ("typical_p", 0.0),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", math.inf),
        ("frequency_penalty", 2.1),
        ("presence_penalty", math.nan),
        ("logit_bias", ((1, 101.0),)),
        ("logit_bias", ((1, math.nan),)),
        ("logit_bias", ((-1, 1.0),)),
        ("logit_bias", ((1, 1.0), (1, 2.0))),
        ("allowed_token_ids", (-1,)),
        ("bad_token_ids", (-1,)),
        ("logprobs", 21),
        ("logprobs", -1),
        ("prompt_logprobs", 21),
        ("stop_token_ids", (3, -1)),
    ],
)
def test_a_bad_value_names_its_field(field: str, value: Any) -> None:
    """Each bad value raises a ParamError that carries the field and a sentence without it."""
    with pytest.raises(ParamError) as caught:
        SamplingParams(**{field: value})
    assert caught.value.field == field
    assert caught.value.message and field not in caught.value.message.split()[0]


def test_errors_are_value_errors() -> None:
    """A caller may catch every refusal as FieldError or plainly as ValueError."""
    assert issubclass(ParamError, FieldError)
    assert issubclass(FieldError, ValueError)


def test_temperature_zero_is_greedy() -> None:
    """Only temperature 0 is greedy."""
    assert SamplingParams(temperature=0).is_greedy
    assert not SamplingParams(temperature=1e-6).is_greedy
