"""A decoder from a folder, computed by the CPU's parts."""

from pathlib import Path
from typing import Any

from services.generator.backend.cpu import loading
from services.generator.engine import EngineConfig
from services.generator.model.checkpoint.config import ModelConfig
from services.generator.model.checkpoint.safetensors import Checkpoint
from services.generator.model.decoder import Decoder


def load_model(folder: Path, dtype: str | None = None, **options: Any) -> Decoder:
    """Return the folder's model as an engine with these options computes it."""
    config = EngineConfig(folder, dtype, **options)
    return loading.load_model(config, ModelConfig.read(folder), Checkpoint(folder))
