"""Between the engine's values and the protos; refusals name the proto's field."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mesh.errors import MeshError, invalid
from mesh.gguf import model_name
from mesh.pb import common_pb2, events_pb2
from services.generator.engine import (
    Engine,
    FinishReason,
    ParamError,
    RequestError,
    SamplingParams,
    StepOutput,
    TokenLogprobs,
)
from services.generator.model.checkpoint.generation_config import GenerationConfig
from services.generator.model.checkpoint.revision import revision

_REASONS = {
    None: common_pb2.FINISH_REASON_UNSPECIFIED,
    FinishReason.STOP: common_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: common_pb2.FINISH_REASON_LENGTH,
    FinishReason.ABORT: common_pb2.FINISH_REASON_ABORT,
    FinishReason.DEADLINE: common_pb2.FINISH_REASON_DEADLINE,
    FinishReason.ERROR: common_pb2.FINISH_REASON_ERROR,
    FinishReason.REJECTED: common_pb2.FINISH_REASON_REJECTED,
}
# where the engine's name for a field is not the proto's
_FIELDS = {"prompt": "prompt_token_ids"}
_SAMPLING = common_pb2.SamplingParams.DESCRIPTOR.fields
_NAMES = tuple(field.name for field in _SAMPLING)
_OPTIONAL = frozenset(field.name for field in _SAMPLING if field.has_presence)
_LISTS = frozenset(field.name for field in _SAMPLING if field.is_repeated)
_MAPS = frozenset(field.name for field in _SAMPLING if field.message_type is not None)
# where 0 is no value but stands for the engine's default; a newer field is `optional` instead
_ZERO_IS_UNSET = frozenset({"top_p", "typical_p", "repetition_penalty", "n"})


def sampling_params(message: common_pb2.SamplingParams) -> SamplingParams:
    """Return the engine's parameters, field by field, by name; raise INVALID_ARGUMENT."""
    values = {name: _value(message, name) for name in _NAMES if _is_set(message, name)}
    try:
        return SamplingParams(**values)
    except ParamError as error:
        raise refused(error) from error


def refused(error: ParamError | RequestError) -> MeshError:
    """Return the engine's refusal for the caller."""
    field = _FIELDS.get(error.field, error.field)
    return invalid(field, f"{field}: {error.message}")


def finish_reason(output: StepOutput) -> common_pb2.FinishReason:
    """Return the proto's reason; UNSPECIFIED while the sequence goes on."""
    return _REASONS[output.finish_reason]


def cancel_reason(message: events_pb2.Cancel) -> FinishReason:
    """Return how a cancelled job ends: well, as by a stop token, where it has all of its text."""
    return FinishReason.STOP if message.stopped else FinishReason.ABORT


def usage(output: StepOutput) -> common_pb2.Usage:
    """Return the token counts of a sequence that ended."""
    return common_pb2.Usage(
        prompt_tokens=output.num_prompt_tokens,
        completion_tokens=output.num_output_tokens,
        cached_prompt_tokens=output.num_cached_tokens,
    )


def logprobs(tokens: Iterable[TokenLogprobs]) -> list[common_pb2.TokenLogprobs]:
    """Return how likely the model held each of some tokens."""
    return [common_pb2.TokenLogprobs(**one._asdict()) for one in tokens]


def other_beams(output: StepOutput) -> list[common_pb2.Beam]:
    """Return what a beam search found beside the best."""
    return [
        common_pb2.Beam(token_ids=beam.token_ids, finish_reason=_REASONS[beam.finish_reason])
        for beam in output.other_beams
    ]


def start(output: StepOutput) -> common_pb2.Start | None:
    """Return what a sequence's first output tells beside its tokens; None for later ones."""
    if output.start is None:
        return None
    num_cached_tokens, queue_s, prefill_s = output.start
    return common_pb2.Start(
        cached_prompt_tokens=num_cached_tokens, queue_s=queue_s, prefill_s=prefill_s
    )


def timings(output: StepOutput) -> common_pb2.Timings:
    """Return the stage times of a sequence that ended."""
    return common_pb2.Timings(
        queue_s=output.queue_s, prefill_s=output.prefill_s, decode_s=output.decode_s
    )


def model_info(model: Path, model_id: str, engine: Engine) -> common_pb2.ModelInfo:
    """Return what this replica serves."""
    config = engine.model_config
    defaults = GenerationConfig.read(model)
    return common_pb2.ModelInfo(
        id=model_id or model_name(model),
        revision=revision(model),
        context_length=config.context_length,
        vocab_size=config.vocab_size,
        eos_token_ids=config.eos_token_ids,
        default_sampling=common_pb2.SamplingParams(
            **{name: getattr(defaults, name) for name in _NAMES if hasattr(defaults, name)}
        ),
    )


def _is_set(message: common_pb2.SamplingParams, name: str) -> bool:
    if name in _OPTIONAL:
        return message.HasField(name)
    return name not in _ZERO_IS_UNSET or getattr(message, name) != 0


def _value(message: common_pb2.SamplingParams, name: str) -> Any:
    """Return a hashable value: a map as sorted pairs, a list as a tuple."""
    value = getattr(message, name)
    if name in _MAPS:
        return tuple(sorted(value.items()))
    return tuple(value) if name in _LISTS else value
