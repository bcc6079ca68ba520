"""Blocks of every type against the `gguf` package's meaning of them."""

import gguf
import numpy as np
import pytest
import torch

from mesh.gguf import TENSOR_TYPES, Tensor
from services.generator.model.checkpoint.gguf import blocks
from services.generator.model.errors import WeightError

GROUPED = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
BY_THE_PACKAGE = [
    *("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S", "IQ1_M", "IQ4_NL", "IQ4_XS"),
    *("TQ1_0", "TQ2_0", "MXFP4"),
]
FLOATS = ["F32", "F16", "BF16"]
# where a block has float16 numbers, which random bits would make infinite or NaN
HALVES = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q2_K": (80, 82),
    "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ2_XXS": (0,),
    "IQ2_XS": (0,), "IQ2_S": (0,), "IQ3_XXS": (0,), "IQ3_S": (0,), "IQ1_S": (0,), "IQ4_NL": (0,),
    "IQ4_XS": (0,), "TQ1_0": (52,), "TQ2_0": (64,),
}  # fmt: skip
ROWS, COLUMNS = 6, 512


def random_tensor(kind: str) -> tuple[Tensor, np.ndarray]:
    """Return a matrix of random bits, and what the package makes of it."""
    number = gguf.GGMLQuantizationType[kind]
    form = TENSOR_TYPES[number]
    generator = np.random.default_rng(number)
    size = ROWS * COLUMNS // form.block_size
    data = generator.integers(0, 256, (size, form.block_bytes), np.uint8)
    for begin in HALVES.get(kind, ()):
        halves = generator.standard_normal(size).astype(np.float16)
        data[:, begin : begin + 2] = halves.view(np.uint8).reshape(size, 2)
    if kind == "IQ1_M":  # its scale lies in the upper halves of four words
        data[:, 48:56:2] &= 0x0F
        data[:, 49:56:2] &= 0x3F
    if kind == "MXFP4":  # an exponent, of which most are beyond float32
        data[:, 0] = generator.integers(118, 138, size)
    if kind in FLOATS:
        values = generator.standard_normal(size).astype(np.float32)
        data = gguf.quantize(values, number).view(np.uint8)
    content = data.tobytes()
    expected = gguf.dequantize(np.frombuffer(content, np.uint8), number)
    return Tensor(form, (ROWS, COLUMNS), memoryview(content)), expected.reshape(ROWS, COLUMNS)


@pytest.mark.parametrize("kind", GROUPED)
def test_groups_mean_what_the_file_does(kind: str) -> None:
    """Bit for bit, in as many bits as a value needs."""
    tensor, expected = random_tensor(kind)
    weight = blocks.grouped("t", tensor)
    assert blocks.is_grouped(tensor)
    assert np.array_equal(weight.dequantized(torch.float32).numpy(), expected)
    assert weight.bits == (4 if kind.startswith("Q4") else 8)
    assert blocks.kept_bits(tensor) == weight.bits
    if weight.bits == 4:
        assert int(weight.values.max()) - int(weight.values.min()) < 16


@pytest.mark.parametrize("kind", [*GROUPED, *BY_THE_PACKAGE, *FLOATS])
def test_floats_are_those_of_the_package(kind: str) -> None:
    """Types that no product takes as well; floats keep their dtype."""
    tensor, expected = random_tensor(kind)
    actual = blocks.floats("t", tensor)
    assert np.array_equal(actual.float().numpy(), expected, equal_nan=True)
    if kind in FLOATS:
        names = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
        assert actual.dtype == names[kind]


def test_a_type_that_nobody_reads_is_named() -> None:
    """The tensor and its type."""
    tensor = Tensor(TENSOR_TYPES[9], (1, 32), memoryview(bytes(40)))  # Q8_1 is of sums alone
    with pytest.raises(WeightError, match="Q8_1"):
        blocks.floats("blk.0.attn_q.weight", tensor)


def test_experts_have_three_dimensions() -> None:
    """A stack of matrices keeps its shape."""
    tensor, expected = random_tensor("Q4_K")
    stack = tensor._replace(shape=(2, 3, COLUMNS))
    assert np.array_equal(blocks.floats("t", stack).numpy(), expected.reshape(2, 3, COLUMNS))
