"""What is computed: a Llama-family decoder read from Hugging Face files, on paged memory."""

from services.generator.model.config import ModelConfig
from services.generator.model.errors import ModelConfigError, ModelError, WeightError
from services.generator.model.kv_cache import KVCache
from services.generator.model.llama import Llama
from services.generator.model.loader import load_model

__all__ = [
    "KVCache",
    "Llama",
    "ModelConfig",
    "ModelConfigError",
    "ModelError",
    "WeightError",
    "load_model",
]
