"""A model's files of either format: a Hugging Face folder, or a GGUF file."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from services.generator.model.checkpoint.config import ModelConfig
from services.generator.model.checkpoint.gguf.gguf_config import model_config, open_gguf

if TYPE_CHECKING:
    from services.generator.model.checkpoint.safetensors import Weights

_HASHED_EDGE_BYTES = 2**20
_SUFFIXES = (".json", ".jinja", ".safetensors")


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


def revision(model: Path) -> str:
    """Return a short hash that changes with the weights, their config or their tokenizer.

    Of each weight file it reads the size and both ends: a checkpoint of 100 GB costs as little.
    """
    digest = hashlib.sha256()
    for path in _files(model):
        size = path.stat().st_size
        digest.update(json.dumps([path.name, size]).encode())
        with path.open("rb") as file:
            digest.update(file.read(_HASHED_EDGE_BYTES))
            file.seek(max(0, size - _HASHED_EDGE_BYTES))
            digest.update(file.read(_HASHED_EDGE_BYTES))
    return digest.hexdigest()[:16]


def _files(model: Path) -> Iterator[Path]:
    if model.is_file():
        yield model
        return
    suffixes = (".gguf",) if any(model.glob("*.gguf")) else _SUFFIXES
    yield from (path for path in sorted(model.iterdir()) if path.suffix in suffixes)
