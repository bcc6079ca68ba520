"""The domain's values in the contract's shared messages."""

import dataclasses

from mesh.pb import common_pb2
from services.gateway.common_wire import (
    FINISH_NUMBERS,
    FINISH_REASONS,
    sampling_message,
    usage_message,
    usage_value,
)
from services.gateway.domain.generation import Defaults, Sampling, Usage

CONTRACT = {field.name for field in common_pb2.SamplingParams.DESCRIPTOR.fields}


def test_sampling_has_the_fields_of_the_contract() -> None:
    """A field that one of the two lacks would be lost on its way, so their names agree."""
    assert {field.name for field in dataclasses.fields(Sampling)} == CONTRACT
    assert {field.name for field in dataclasses.fields(Defaults)} <= CONTRACT


def test_every_field_of_sampling_crosses() -> None:
    """Values of all kinds arrive, absent ones stay absent, and a bias is a map."""
    sampling = Sampling(
        max_tokens=4,
        temperature=0.5,
        logit_bias=((7, 1.5), (9, -2.0)),
        allowed_token_ids=(1, 2),
        seed=2**64 - 1,
        ignore_eos=True,
        logprobs=0,
    )
    message = sampling_message(sampling)
    assert dict(message.logit_bias) == {7: 1.5, 9: -2.0}
    assert (list(message.allowed_token_ids), message.seed) == ([1, 2], 2**64 - 1)
    assert (message.max_tokens, message.temperature, message.ignore_eos) == (4, 0.5, True)
    assert message.HasField("logprobs") and not message.HasField("prompt_logprobs")
    assert not message.HasField("length_penalty") and not sampling_message(Sampling(4)).HasField(
        "seed"
    )


def test_usage_comes_back() -> None:
    """Counts are the same on both sides."""
    assert usage_value(usage_message(Usage(3, 5, 2))) == Usage(3, 5, 2)


def test_finish_reasons_have_one_name_each() -> None:
    """The table reads the same both ways."""
    assert {FINISH_NUMBERS[name]: name for name in FINISH_NUMBERS} == FINISH_REASONS
