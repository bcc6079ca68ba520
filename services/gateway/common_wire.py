"""The domain's values as the messages that more than one contract carries (`common.proto`)."""

from mesh.pb import common_pb2
from services.gateway.domain.generation import Sampling, Usage

FINISH_REASONS = {
    common_pb2.FINISH_REASON_STOP: "stop",
    common_pb2.FINISH_REASON_LENGTH: "length",
}
FINISH_NUMBERS = {name: number for number, name in FINISH_REASONS.items()}

_FIELDS = common_pb2.SamplingParams.DESCRIPTOR.fields
# a map field takes a mapping; the domain's value is hashable: pairs
_MAPS = frozenset(field.name for field in _FIELDS if field.message_type is not None)
_NAMES = tuple(field.name for field in _FIELDS)


def sampling_message(sampling: Sampling) -> common_pb2.SamplingParams:
    """Return the contract's form of how tokens are drawn: field by field, by name."""
    values = {name: getattr(sampling, name) for name in _NAMES}
    values.update({name: dict(values[name]) for name in _MAPS})
    return common_pb2.SamplingParams(**values)


def usage_message(usage: Usage) -> common_pb2.Usage:
    """Return the contract's form of token counts."""
    return common_pb2.Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_prompt_tokens=usage.cached_prompt_tokens,
    )


def usage_value(message: common_pb2.Usage) -> Usage:
    """Return the domain's form of token counts."""
    return Usage(message.prompt_tokens, message.completion_tokens, message.cached_prompt_tokens)
