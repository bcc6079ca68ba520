"""A model's files of either format: a Hugging Face folder, or a GGUF file."""

from pathlib import Path
from typing import TYPE_CHECKING

from services.generator.model.checkpoint.config import ModelConfig
from services.generator.model.checkpoint.gguf.gguf_config import model_config, open_gguf

if TYPE_CHECKING:
    from services.generator.model.checkpoint.safetensors import Weights


def read_config(model: Path) -> ModelConfig:
    """Return the model's configuration; raises ModelConfigError naming the field at fault."""
    file = open_gguf(model)
    return ModelConfig.read(model) if file is None else model_config(file)


def open_weights(model: Path) -> "Weights":
    """Return the model's tensors, whose pages are read when they are first used."""
    # torch comes with them
    from services.generator.model.checkpoint.gguf.weights import GGUFWeights
    from services.generator.model.checkpoint.safetensors import Checkpoint

    file = open_gguf(model)
    return Checkpoint(model) if file is None else GGUFWeights(file)
