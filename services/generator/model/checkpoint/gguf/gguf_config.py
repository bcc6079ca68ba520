"""A GGUF model's file, and the configuration that it stands for. Knows no torch."""

import dataclasses
from pathlib import Path

from mesh.gguf import GGUFError, GGUFFile, find_gguf
from mesh.gguf_vocabulary import end_token_ids
from services.generator.model.checkpoint.config import ModelConfig
from services.generator.model.checkpoint.gguf.hugging_face_fields import (
    hugging_face_fields,
    is_quantized,
)
from services.generator.model.checkpoint.gguf.tensor_names import TENSOR_NAMES
from services.generator.model.checkpoint.gguf.unread_tensors import refuse_unread_tensors
from services.generator.model.errors import ModelConfigError


def open_gguf(model: Path) -> GGUFFile | None:
    """Return the file that a model's path means, None where it is of another format.

    Raises ModelConfigError for a file that cannot be read.
    """
    try:
        path = find_gguf(model)
        return None if path is None else GGUFFile.read(path)
    except GGUFError as error:
        raise ModelConfigError(error.field, str(error).removeprefix(f"{error.field} ")) from error


def model_config(file: GGUFFile) -> ModelConfig:
    """Return the model's configuration.

    Raises ModelConfigError or WeightError naming the entry or the tensor at fault.
    """
    fields = hugging_face_fields(file)
    config = ModelConfig.parse(fields, eos_token_id=_end_token_ids(file))
    # converters have turned GPT-2's matrices round
    family = dataclasses.replace(
        config.family, weights=TENSOR_NAMES[fields["architectures"][0]], is_transposed=False
    )
    config = dataclasses.replace(config, family=family, is_quantized=is_quantized(file))
    refuse_unread_tensors(file, config)
    return config


def _end_token_ids(file: GGUFFile) -> tuple[int, ...]:
    try:
        return end_token_ids(file.metadata)
    except GGUFError as error:
        raise ModelConfigError(error.field, str(error).removeprefix(f"{error.field} ")) from error
