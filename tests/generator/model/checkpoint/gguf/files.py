"""Small GGUF files that say what a test wants."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from services.generator.model.checkpoint.config import ModelConfig
from services.generator.model.checkpoint.model_files import read_config

_Q4_0 = gguf.GGMLQuantizationType.Q4_0
SIZES = {
    "context_length": 512, "embedding_length": 64, "block_count": 4, "feed_forward_length": 96,
    "attention.head_count": 4, "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 5e5,
}  # fmt: skip
EXPERTS = {"expert_count": 8, "expert_used_count": 2, "expert_feed_forward_length": 24}


def add(writer: gguf.GGUFWriter, name: str, value: Any) -> None:
    """Add an entry of the type that the value has."""
    adders = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
    adders |= {str: writer.add_string, list: writer.add_array}
    adders[type(value)](name, value)


def read(
    folder: Path,
    architecture: str = "llama",
    tensors: dict[str, np.ndarray] | None = None,
    general: dict[str, Any] | None = None,
    num_tokens: int = 89,
    block_type: gguf.GGMLQuantizationType = _Q4_0,
    **changes: Any,
) -> ModelConfig:
    """Return the configuration of a file of few tensors; `changes` have `__` for a dot.

    Arrays of bytes are taken for blocks of `block_type`.
    """
    writer = gguf.GGUFWriter(folder / "model.gguf", architecture)
    changed = {name.replace("__", "."): value for name, value in changes.items()}
    for name, value in (SIZES | changed).items():
        if value is not None:
            add(writer, f"{architecture}.{name}", value)
    for name, value in (general or {}).items():
        add(writer, name, value)
    if num_tokens:
        writer.add_token_list([f"<{index}>" for index in range(num_tokens)])
    for name, array in (tensors or {}).items():
        writer.add_tensor(name, array, raw_dtype=block_type if array.dtype == np.uint8 else None)
    if "token_embd.weight" not in (tensors or {}):
        writer.add_tensor("token_embd.weight", np.zeros((89, 64), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return read_config(folder)
