"""What is computed: decoders read from Hugging Face files, on paged memory."""

from services.generator.model.config import ModelConfig
from services.generator.model.decoder import Decoder
from services.generator.model.errors import ModelConfigError, ModelError, WeightError
from services.generator.model.kv_cache import KVCache
from services.generator.model.loader import load_model

__all__ = [
    "Decoder",
    "KVCache",
    "ModelConfig",
    "ModelConfigError",
    "ModelError",
    "WeightError",
    "load_model",
]
