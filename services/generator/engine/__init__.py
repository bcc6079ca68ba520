"""Engine: continuous batching over a paged KV cache; token ids in and out, no tensors."""

from services.generator.engine.config import EngineConfig
from services.generator.engine.engine import Engine
from services.generator.engine.errors import (
    EngineConfigError,
    EngineFaultError,
    FieldError,
    ParamError,
    QueueFullError,
    RequestError,
)
from services.generator.engine.outputs import Refusal, StepOutput
from services.generator.engine.request import FinishReason
from services.generator.engine.sampling_params import SamplingParams
from services.generator.engine.sequences.fork import sequence_id, sequence_seed
from services.generator.engine.stats import EngineStats
from services.generator.engine.token_logprobs import TokenLogprobs

__all__ = [
    "Engine",
    "EngineConfig",
    "EngineConfigError",
    "EngineFaultError",
    "EngineStats",
    "FieldError",
    "FinishReason",
    "ParamError",
    "QueueFullError",
    "Refusal",
    "RequestError",
    "SamplingParams",
    "StepOutput",
    "TokenLogprobs",
    "sequence_id",
    "sequence_seed",
]
