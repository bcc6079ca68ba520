"""Blocks of Q4_K made of floats, which the `gguf` package reads and does not write."""

import numpy as np

from mesh.gguf import TENSOR_TYPES, Tensor

NUMBER = 12  # of Q4_K, in the file
BLOCK, GROUPS, GROUP = 256, 8, 32


def q4_k_tensor(weight: np.ndarray) -> Tensor:
    """Return a matrix of whole blocks as a file's tensor."""
    return Tensor(TENSOR_TYPES[NUMBER], weight.shape, memoryview(q4_k_blocks(weight).tobytes()))


def q4_k_blocks(weight: np.ndarray) -> np.ndarray:
    """Return uint8 [..., bytes of a row], to the nearest; the last dimension is of whole blocks."""
    x = weight.astype(np.float32).reshape(-1, GROUPS, GROUP)
    minima = np.maximum(-x.min(2), 0.0)
    steps = (x.max(2) + minima) / 15
    (unit, scales), (min_unit, mins) = map(_six_bits, (steps, minima))
    step, offset = unit * scales, min_unit * mins
    inverse = np.where(step > 0, 1 / np.where(step > 0, step, 1), 0)
    values = np.rint((x + offset[:, :, None]) * inverse[:, :, None]).clip(0, 15).astype(np.uint8)
    pairs = values.reshape(-1, GROUPS // 2, 2, GROUP)
    data = [
        *(each.astype(np.float16).view(np.uint8) for each in (unit, min_unit)),
        _packed(scales.astype(np.uint8), mins.astype(np.uint8)),
        (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(len(x), -1),
    ]
    return np.concatenate(data, 1).reshape(*weight.shape[:-1], -1)


def _six_bits(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a unit for each block, [blocks, 1] exact in float16, and how many of it."""
    unit = (numbers.max(1, keepdims=True) / 63).astype(np.float16).astype(np.float32)
    return unit, np.rint(numbers / np.where(unit > 0, unit, 1)).clip(0, 63)


def _packed(scales: np.ndarray, mins: np.ndarray) -> np.ndarray:
    """Return the twelve bytes: four of each whole, of the other four the low and the high bits."""
    whole = [each[:, :4] | each[:, 4:] >> 4 << 6 for each in (scales, mins)]
    return np.concatenate([*whole, scales[:, 4:] & 15 | (mins[:, 4:] & 15) << 4], 1)
