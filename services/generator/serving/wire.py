"""Between the engine's values and the protos; refusals name the proto's field."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from mesh.errors import MeshError, invalid
from mesh.pb import common_pb2
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
_HASHED_EDGE_BYTES = 2**20


def sampling_params(message: common_pb2.SamplingParams) -> SamplingParams:
    """The engine's parameters; raises INVALID_ARGUMENT."""
    try:
        return SamplingParams(
            max_tokens=message.max_tokens,
            min_tokens=message.min_tokens,
            temperature=message.temperature,
            top_k=message.top_k,
            top_p=message.top_p if message.top_p else 1.0,
            min_p=message.min_p,
            typical_p=message.typical_p if message.typical_p else 1.0,
            repetition_penalty=message.repetition_penalty if message.repetition_penalty else 1.0,
            frequency_penalty=message.frequency_penalty,
            presence_penalty=message.presence_penalty,
            logit_bias=tuple(sorted(message.logit_bias.items())),
            allowed_token_ids=tuple(message.allowed_token_ids),
            bad_token_ids=tuple(message.bad_token_ids),
            seed=message.seed if message.HasField("seed") else None,
            stop_token_ids=tuple(message.stop_token_ids),
            ignore_eos=message.ignore_eos,
            logprobs=message.logprobs if message.HasField("logprobs") else None,
            prompt_logprobs=(
                message.prompt_logprobs if message.HasField("prompt_logprobs") else None
            ),
            n=message.n or 1,
            beam_width=message.beam_width,
            length_penalty=message.length_penalty if message.HasField("length_penalty") else 1.0,
        )
    except ParamError as error:
        raise refused(error) from error


def refused(error: ParamError | RequestError) -> MeshError:
    """The engine's refusal for the caller."""
    field = _FIELDS.get(error.field, error.field)
    return invalid(field, f"{field}: {error.message}")


def finish_reason(output: StepOutput) -> common_pb2.FinishReason:
    """The proto's reason; UNSPECIFIED while the sequence goes on."""
    return _REASONS[output.finish_reason]


def usage(output: StepOutput) -> common_pb2.Usage:
    """Token counts of a sequence that ended."""
    return common_pb2.Usage(
        prompt_tokens=output.num_prompt_tokens,
        completion_tokens=output.num_output_tokens,
        cached_prompt_tokens=output.num_cached_tokens,
    )


def logprobs(told: Iterable[TokenLogprobs]) -> list[common_pb2.TokenLogprobs]:
    """How likely the model held each of some tokens."""
    return [common_pb2.TokenLogprobs(**one._asdict()) for one in told]


def other_beams(output: StepOutput) -> list[common_pb2.Beam]:
    """What a beam search found beside the best."""
    return [
        common_pb2.Beam(token_ids=beam.token_ids, finish_reason=_REASONS[beam.finish_reason])
        for beam in output.other_beams
    ]


def timings(output: StepOutput) -> common_pb2.Timings:
    """Stage times of a sequence that ended."""
    return common_pb2.Timings(
        queue_s=output.queue_s, prefill_s=output.prefill_s, decode_s=output.decode_s
    )


def model_info(folder: Path, model_id: str, engine: Engine) -> common_pb2.ModelInfo:
    """What this replica serves."""
    config = engine.model_config
    defaults = GenerationConfig.read(folder)
    return common_pb2.ModelInfo(
        id=model_id or folder.resolve().name,
        revision=revision(folder),
        context_length=config.context_length,
        vocab_size=config.vocab_size,
        eos_token_ids=config.eos_token_ids,
        default_sampling=common_pb2.SamplingParams(
            max_tokens=defaults.max_tokens,
            temperature=defaults.temperature,
            top_k=defaults.top_k,
            top_p=defaults.top_p,
            min_p=defaults.min_p,
            repetition_penalty=defaults.repetition_penalty,
        ),
    )


def revision(folder: Path) -> str:
    """A short hash that changes with the weights, their config or their tokenizer.

    Of each weight file it reads the size and both ends: a checkpoint of 100 GB costs as little.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix not in (".json", ".jinja", ".safetensors"):
            continue
        size = path.stat().st_size
        digest.update(json.dumps([path.name, size]).encode())
        with path.open("rb") as file:
            digest.update(file.read(_HASHED_EDGE_BYTES))
            file.seek(max(0, size - _HASHED_EDGE_BYTES))
            digest.update(file.read(_HASHED_EDGE_BYTES))
    return digest.hexdigest()[:16]
