"""What rows, matrices and the KV cache are kept in, by level and by what is asked for."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from services.generator.backend.cpu.loading import choose_dtypes
from services.generator.backend.cpu.native import levels
from services.generator.engine.config import EngineConfig
from tests.generator.backend.cpu.kernels import needs
from tests.generator.shape import shape

pytestmark = needs("program")

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
MULTIPLIES = {level.name: level.multiplies_bf16 for level in levels.available()}


@pytest.fixture(params=MULTIPLIES, autouse=True)
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    before = levels.current()
    levels.use(request.param)
    yield request.param
    levels.use(before.name if before else levels.TORCH)


def chosen(checkpoint: str, **options: object) -> tuple[torch.dtype, ...]:
    return choose_dtypes(shape(dtype=checkpoint), EngineConfig(Path("m"), **options))  # type: ignore[arg-type]


def test_a_bfloat16_checkpoint_is_widened_where_nothing_multiplies_it(level: str) -> None:
    """Its matrices keep their bits, and contexts take two bytes a number in either case."""
    assert chosen("bfloat16") == ((BF16, BF16, BF16) if MULTIPLIES[level] else (F32, BF16, F16))


def test_float32_stays_float32() -> None:
    """Whether the checkpoint or the operator says so, unless products are rounded anyway."""
    assert chosen("float32") == (F32, F32, F32)
    assert chosen("bfloat16", dtype="float32") == (F32, F32, F32)
    assert chosen("bfloat16", dtype="float32", quantization="int8") == (F32, F32, F32)
    assert chosen("float32", quantization="int8") == (F32, F32, F16)


def test_exact_rows_attend_to_exact_keys(level: str) -> None:
    """No number of the cache is rounded where rows are not."""
    expected = (BF16, BF16, BF16) if MULTIPLIES[level] else (F32, BF16, F32)
    assert chosen("bfloat16", exact=True) == expected
    assert chosen("float16", exact=True) == (F32, F16, F32)
