"""Kernels of ARM's levels: clean to compile, and of this processor's bits where that is promised.

`make test-arm` runs all other tests of CPU kernels on an emulated processor.
"""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from services.generator.backend.cpu.linear.float_linear import float_linear
from services.generator.backend.cpu.linear.grouped_linear import grouped_linear
from services.generator.backend.cpu.native import compiler, levels
from services.generator.model.checkpoint.grouped_weight import GroupedWeight
from tests.generator.backend.cpu.kernels import needs
from tests.generator.backend.cpu.native import aarch64

pytestmark = [
    aarch64.NEEDS,
    pytest.mark.slow,
    pytest.mark.skipif("TEST_PROCESSOR" in os.environ, reason="this processor is emulated already"),
]
LEVELS = pytest.mark.parametrize("level", aarch64.LEVELS, ids=lambda level: level.name)
OUTPUTS, INPUTS, ROWS = 53, 141, 19

Product = Callable[[], torch.Tensor]


@pytest.fixture
def on_arm(tmp_path: Path) -> Iterator[Callable[[levels.Level, Product], torch.Tensor]]:
    """Return what runs a product on the emulated processor of a level."""
    with pytest.MonkeyPatch.context() as patch:
        emulator: list[aarch64.Emulator] = []

        def run(level: levels.Level, product: Product) -> torch.Tensor:
            emulator.append(aarch64.Emulator(patch, tmp_path))
            patch.setattr(levels, "current", lambda: level)
            return product()

        yield run
        for each in emulator:
            each.close()


@LEVELS
@pytest.mark.parametrize("source", compiler.SOURCES)
def test_a_source_compiles_without_a_warning(
    source: str, level: levels.Level, tmp_path: Path
) -> None:
    """By GCC, with all that it warns of."""
    path = compiler._HERE / f"{source}.cpp"
    flags = [*compiler._FLAGS, *level.flags, "-Wall", "-Wextra", "-Werror"]
    command = [aarch64.COMPILER, *flags, "-o", str(tmp_path / source), str(path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert not result.returncode, result.stderr[-2000:]


@LEVELS
def test_the_dot_product_is_taken_where_there_is_one(level: levels.Level, tmp_path: Path) -> None:
    """By its instruction in grouped products, and by no other level's."""
    target = tmp_path / "grouped_linear.so"
    compiler._compile(compiler._Compiler((aarch64.COMPILER,)), "grouped_linear", level, target)
    command = ["aarch64-linux-gnu-objdump", "-d", str(target)]
    code = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert ("sdot" in code) == (level.name == "neon_dotprod")


def rows() -> torch.Tensor:
    return torch.randn(ROWS, INPUTS, generator=torch.Generator().manual_seed(5))


@needs("float_linear")
@LEVELS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_float_products_have_this_processors_bits(
    level: levels.Level,
    dtype: torch.dtype,
    on_arm: Callable[[levels.Level, Product], torch.Tensor],
) -> None:
    """One fused multiply-add for each input, in their order."""
    weight = torch.randn(OUTPUTS, INPUTS, generator=torch.Generator().manual_seed(6)).to(dtype)

    def product() -> torch.Tensor:
        linear = float_linear(weight)
        assert linear is not None
        return linear(rows())

    expected = product()
    assert torch.equal(on_arm(level, product), expected)


@needs("grouped_linear")
@LEVELS
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("group", [16, 32])
@pytest.mark.parametrize("bits", [4, 8])
def test_grouped_products_have_this_processors_bits(
    bits: int,
    group: int,
    exact: bool,
    level: levels.Level,
    on_arm: Callable[[levels.Level, Product], torch.Tensor],
) -> None:
    """The sums of a block are whole numbers, those of blocks have one order."""
    sums_halves = "avx512_vnni" not in [each.name for each in levels.available()]
    if sums_halves and (bits, group, exact) == (8, 32, False):
        pytest.skip("this processor adds a block of 8-bit weights in two halves")
    generator = torch.Generator().manual_seed(7)
    values = torch.randint(-8, 8, (OUTPUTS, INPUTS), generator=generator).to(torch.int8)
    scales = torch.rand(OUTPUTS, -(-INPUTS // group), generator=generator)
    weight = GroupedWeight(values, scales, scales - 0.5, group, bits)

    def product() -> torch.Tensor:
        linear = grouped_linear(weight, torch.float32, exact=exact)
        assert linear is not None
        return linear(rows())

    expected = product()
    assert torch.equal(on_arm(level, product), expected)
