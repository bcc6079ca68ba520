"""Blocks of GGUF's tensor types as the numbers that they stand for.

The layouts are ggml's (ggml-quants.h of ggml-org/ggml). Types of 4 to 8 bits become groups that our
products take as they are; what is left becomes floats.
"""

import math
import warnings
from collections.abc import Callable, Mapping

import numpy as np
import torch

from mesh.gguf import Tensor
from services.generator.model.checkpoint.grouped_weight import GroupedWeight
from services.generator.model.errors import WeightError

# values int8 [blocks, groups, inputs], scales and offsets float32 [blocks, groups]
_Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]

_FLOATS = {
    "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64,
}  # fmt: skip


def is_grouped(tensor: Tensor) -> bool:
    """Return whether `grouped` takes this type."""
    return tensor.type.name in _READERS


def kept_bits(tensor: Tensor) -> int | None:
    """Return how many bits of a value `grouped` keeps, None where it takes no such type."""
    return _READERS[tensor.type.name][1] if is_grouped(tensor) else None


def grouped(name: str, tensor: Tensor) -> GroupedWeight:
    """Return a matrix [out, in] whose elements are exactly those of the file in float32.

    Raises WeightError for a scale that is no finite number: it would poison every answer.
    """
    rows, columns = tensor.shape
    read, bits = _READERS[tensor.type.name]
    values, scales, offsets = read(_blocks(tensor))
    _check_finite(name, scales)
    if offsets is not None:
        _check_finite(name, offsets)
    group_size = values.shape[2]
    return GroupedWeight(
        values.reshape(rows, columns),
        scales.reshape(rows, -1),
        None if offsets is None else offsets.reshape(rows, -1),
        group_size,
        bits,
        tensor.type.name,
    )


def floats(name: str, tensor: Tensor) -> torch.Tensor:
    """Return any tensor as floats: those of the file, or float32 for what is quantised.

    Raises WeightError for a type that cannot be read.
    """
    kind = tensor.type.name
    if kind in _FLOATS:
        if len(tensor.data) == 0:
            return torch.empty(tensor.shape, dtype=_FLOATS[kind])
        # the file is mapped to be read only, and nothing here writes
        return _bytes(tensor).view(_FLOATS[kind]).reshape(tensor.shape)
    if kind in _READERS:
        *outer, columns = tensor.shape
        matrix = tensor._replace(shape=(math.prod(outer), columns))
        return grouped(name, matrix).dequantized(torch.float32).reshape(tensor.shape)
    return _by_the_package(name, tensor)


def _by_the_package(name: str, tensor: Tensor) -> torch.Tensor:
    """Read what is rarely met, by the package of the format's authors."""
    try:
        import gguf
    except ImportError as error:
        problem = f"is of type {tensor.type.name}, which takes `pip install gguf` to read"
        raise WeightError(name, problem) from error
    kind = gguf.GGMLQuantizationType[tensor.type.name]
    try:
        with np.errstate(all="ignore"):  # the check says more
            array = gguf.dequantize(_bytes(tensor).numpy(), kind)
    except NotImplementedError as error:
        raise WeightError(name, f"is of type {tensor.type.name}, which cannot be read") from error
    floats = torch.from_numpy(array).reshape(tensor.shape)
    _check_finite(name, floats)
    return floats


def _check_finite(name: str, numbers: torch.Tensor) -> None:
    if not numbers.isfinite().all():
        raise WeightError(name, "has a scale that is not a finite number: the file is damaged")


def _bytes(tensor: Tensor) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable")
        return torch.frombuffer(tensor.data, dtype=torch.uint8)


def _blocks(tensor: Tensor) -> torch.Tensor:
    return _bytes(tensor).view(-1, tensor.type.block_bytes)


def _half(blocks: torch.Tensor, begin: int) -> torch.Tensor:
    """Return float32 [blocks, 1] of the float16 at a block's byte `begin`."""
    return blocks[:, begin : begin + 2].contiguous().view(torch.float16).float()


def _fields(data: torch.Tensor, width: int, bits: int, count: int) -> torch.Tensor:
    """Return uint8 [blocks, n, count, width]: of each `width` bytes one field after the other."""
    shifts = torch.arange(count, dtype=torch.uint8).mul_(bits).view(1, 1, count, 1)
    mask = (1 << bits) - 1
    return (data.reshape(len(data), -1, 1, width) >> shifts) & mask


def _signed(values: torch.Tensor, zero: int, groups: int) -> torch.Tensor:
    return (values.reshape(len(values), groups, -1).to(torch.int16) - zero).to(torch.int8)


def _fifth_bits(words: torch.Tensor) -> torch.Tensor:
    """Return uint8 [blocks, 32], the bits of four bytes from the lowest up, as bit 4."""
    bits = (words.unsqueeze(2) >> torch.arange(8, dtype=torch.uint8)) & 1
    return bits.reshape(len(words), 32) << 4


def _q4_0(blocks: torch.Tensor) -> _Parts:
    return _signed(_fields(blocks[:, 2:], 16, 4, 2), 8, 1), _half(blocks, 0), None


def _q4_1(blocks: torch.Tensor) -> _Parts:
    values = _signed(_fields(blocks[:, 4:], 16, 4, 2), 0, 1)
    return values, _half(blocks, 0), _half(blocks, 2)


def _q5_0(blocks: torch.Tensor) -> _Parts:
    low = _fields(blocks[:, 6:], 16, 4, 2).reshape(-1, 32)
    return _signed(low | _fifth_bits(blocks[:, 2:6]), 16, 1), _half(blocks, 0), None


def _q5_1(blocks: torch.Tensor) -> _Parts:
    low = _fields(blocks[:, 8:], 16, 4, 2).reshape(-1, 32)
    values = _signed(low | _fifth_bits(blocks[:, 4:8]), 0, 1)
    return values, _half(blocks, 0), _half(blocks, 2)


def _q8_0(blocks: torch.Tensor) -> _Parts:
    return blocks[:, 2:].view(torch.int8).unsqueeze(1), _half(blocks, 0), None


def _q2_k(blocks: torch.Tensor) -> _Parts:
    scales, values = blocks[:, :16], _fields(blocks[:, 16:80], 32, 2, 4)
    step = _half(blocks, 80) * (scales & 15).float()
    return _signed(values, 0, 16), step, -(_half(blocks, 82) * (scales >> 4).float())


def _q3_k(blocks: torch.Tensor) -> _Parts:
    high = _fields(blocks[:, :32], 32, 1, 8).reshape(len(blocks), 256)
    low = _fields(blocks[:, 32:96], 32, 2, 4).reshape(len(blocks), 256)
    packed = blocks[:, 96:108]
    scales = _fields(packed[:, :8], 8, 4, 2).reshape(len(blocks), 16)
    scales = scales | (_fields(packed[:, 8:], 4, 2, 4).reshape(len(blocks), 16) << 4)
    step = _half(blocks, 108) * (scales.float() - 32)
    # a high bit that is not set takes four off
    return _signed(low | (high << 2), 4, 16), step, None


def _six_bits(packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the eight scales and minima of six bits, float32 [blocks, 8]."""
    first, second, rest = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = torch.cat((first & 63, (rest & 15) | ((first >> 2) & 48)), 1)
    minima = torch.cat((second & 63, (rest >> 4) | ((second >> 2) & 48)), 1)
    return scales.float(), minima.float()


def _q4_k(blocks: torch.Tensor) -> _Parts:
    scales, minima = _six_bits(blocks[:, 4:16])
    values = _signed(_fields(blocks[:, 16:], 32, 4, 2), 0, 8)
    return values, _half(blocks, 0) * scales, -(_half(blocks, 2) * minima)


def _q5_k(blocks: torch.Tensor) -> _Parts:
    scales, minima = _six_bits(blocks[:, 4:16])
    high = _fields(blocks[:, 16:48], 32, 1, 8).reshape(len(blocks), 256)
    low = _fields(blocks[:, 48:], 32, 4, 2).reshape(len(blocks), 256)
    values = _signed(low | (high << 4), 0, 8)
    return values, _half(blocks, 0) * scales, -(_half(blocks, 2) * minima)


def _q6_k(blocks: torch.Tensor) -> _Parts:
    low = _fields(blocks[:, :128], 64, 4, 2).reshape(len(blocks), 256)
    high = _fields(blocks[:, 128:192], 32, 2, 4).reshape(len(blocks), 256)
    scales = blocks[:, 192:208].view(torch.int8).float()
    return _signed(low | (high << 4), 32, 16), _half(blocks, 208) * scales, None


# by type, with the bits that a product keeps of a value
_READERS: Mapping[str, tuple[Callable[[torch.Tensor], _Parts], int]] = {
    "Q4_0": (_q4_0, 4), "Q4_1": (_q4_1, 4), "Q4_K": (_q4_k, 4),
    "Q5_0": (_q5_0, 8), "Q5_1": (_q5_1, 8), "Q8_0": (_q8_0, 8), "Q2_K": (_q2_k, 8),
    "Q3_K": (_q3_k, 8), "Q5_K": (_q5_k, 8), "Q6_K": (_q6_k, 8),
}  # fmt: skip
