"""Every tensor of a real file against the `gguf` package, bit for bit."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest

from mesh.gguf import GGUFFile, Tensor
from services.generator.model.checkpoint.gguf import blocks

pytestmark = [pytest.mark.models, pytest.mark.timeout(600)]
ROWS = 2**14  # at once: an embedding in float32 takes more than half a gigabyte


def slices(tensor: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield a tensor's rows, some at a time."""
    if len(tensor.shape) < 2:
        yield slice(None), tensor
        return
    rows, *inner = tensor.shape
    size = len(tensor.data) // rows
    for begin in range(0, rows, ROWS):
        end = min(begin + ROWS, rows)
        data = tensor.data[begin * size : end * size]
        yield slice(begin, end), tensor._replace(shape=(end - begin, *inner), data=data)


def test_each_tensor_is_what_the_package_makes_of_it(model: Path) -> None:
    """By the package's own reading of the file, with its shapes."""
    ours, theirs = GGUFFile.read(model).tensors, gguf.GGUFReader(model).tensors
    assert ours.keys() == {each.name for each in theirs}
    for each in theirs:
        tensor = ours[each.name]
        assert tensor.shape == tuple(int(size) for size in reversed(each.shape))
        for rows, part in slices(tensor):
            expected = gguf.dequantize(each.data[rows], each.tensor_type)
            actual = blocks.floats(each.name, part).numpy()
            assert np.array_equal(actual, expected.reshape(actual.shape)), each.name


def test_a_q4_k_m_has_four_quantised_types(gemma_file: Path) -> None:
    """What the other tests of this file are about."""
    kinds = Counter(each.type.name for each in GGUFFile.read(gemma_file).tensors.values())
    assert kinds == {"F32": 109, "Q5_0": 81, "Q4_K": 27, "Q8_0": 10, "Q6_K": 9}
