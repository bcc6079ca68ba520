"""Memory that a model's weights take on a CPU, from the sizes in their files' headers."""

from collections.abc import Mapping

from services.generator.backend.cpu.native import levels
from services.generator.backend.cpu.parts import QUANTIZED_BITS
from services.generator.model.checkpoint.config import ModelConfig
from services.generator.model.checkpoint.grouped_weight import GROUP_SIZE
from services.generator.model.checkpoint.safetensors import TensorSize, Weights

# a scale of two bytes
_GROUP_BYTES = 2
_HEAD_BITS = 8


def least_bytes(
    shape: ModelConfig, weights: Weights, float_bytes: int, quantization: str | None
) -> int:
    """Return what weights take at least, where a float takes so many bytes.

    Matrices of a float format are rounded as `quantization` wants it, those in groups stay; without
    compiled kernels all are floats.
    """
    rounded = QUANTIZED_BITS[quantization]
    names = shape.family.weights
    total = 0.0
    for size in weights.sizes():
        if levels.current() is None:
            total += size.num_values * float_bytes
        elif size.name.endswith(f"{names.embedding}.weight"):
            # rows of eight bits where the file has groups; they may be the head's matrix too
            total += _bytes(size, 8 if size.bits else None, float_bytes)
            if shape.tie_word_embeddings and (size.bits or rounded):
                total += _bytes(size, size.bits or _HEAD_BITS, float_bytes)
        elif size.name == f"{names.head}.weight" and rounded:
            total += _bytes(size, size.bits or _HEAD_BITS, float_bytes)
        else:
            bits = size.bits or (rounded if size.is_matrix else None)
            total += _bytes(size, bits, float_bytes)
    return int(total)


def smaller_formats(
    shape: ModelConfig, weights: Weights, float_bytes: int, quantization: str | None
) -> Mapping[str, int]:
    """Return the formats in which the same weights take less, by how an operator has them."""
    current = least_bytes(shape, weights, float_bytes, quantization)
    formats = {
        f"quantization {name}": least_bytes(shape, weights, float_bytes, name)
        for name in QUANTIZED_BITS
        if name is not None
    }
    if levels.current() is not None and any(size.bits for size in weights.sizes()):
        sizes = (_bytes(size, 4, float_bytes) for size in weights.sizes())
        formats["a file of 4 bits"] = int(sum(sizes))
    return {name: size for name, size in formats.items() if size < current}


def _bytes(size: TensorSize, bits: int | None, float_bytes: int) -> float:
    if bits is None:
        return size.num_values * float_bytes
    return size.num_values * (bits / 8 + _GROUP_BYTES / GROUP_SIZE)
