"""How products are cut, and the sum of their parts."""

import pytest
import torch

from services.generator.backend.gpu.triton.linear.split_k import (
    ANY,
    MAX_PARTS,
    Tiles,
    choose,
    plan_split_k,
    sum_parts,
)
from tests.generator.backend.gpu.triton.compare import Guarded, assert_near

TILES = Tiles(16, 64, 128, 4, 4)


@pytest.mark.parametrize("depth", [1, 128, 129, 1024, 1152, 3072, 14336])
@pytest.mark.parametrize("columns", [1, 1024, 4096, 6144, 28672])
@pytest.mark.parametrize(("rows", "resident", "fewest"), [(16, 3, 2), (64, 2, 2), (65, 1, 8)])
def test_parts_cover_the_depth_and_none_is_empty(
    rows: int, resident: int, fewest: int, columns: int, depth: int
) -> None:
    """For widths of real models on 132 multiprocessors, of which each has few programs."""
    plan = plan_split_k(rows, columns, depth, TILES, 132)
    assert plan.part_depth % TILES.depth == 0
    assert (plan.parts - 1) * plan.part_depth < depth <= plan.parts * plan.part_depth
    assert plan.parts <= MAX_PARTS
    assert plan.parts == 1 or plan.part_depth >= fewest * TILES.depth
    assert plan.parts == 1 or plan.programs * plan.parts <= resident * 132


def test_enough_programs_are_not_split() -> None:
    """Neither many columns nor many tokens are."""
    assert plan_split_k(1, 2 * 132 * 64, 4096, TILES, 132).parts == 1
    assert plan_split_k(80, 1024, 4096, TILES, 132).parts == 1
    assert plan_split_k(1, 1024, 4096, TILES, 132).parts == 16


def test_few_tokens_are_cut_finer() -> None:
    """The sums of many are more to write and to read."""
    tiles = TILES._replace(rows=128)
    found = [plan_split_k(rows, 2048, 4096, tiles, 132).parts for rows in (16, 17, 64, 65, 128)]
    assert found == [11, 8, 8, 4, 4]


def test_tiles_are_those_of_the_first_bound_that_holds_the_rows() -> None:
    """A bound is part of its class."""
    few, many = Tiles(16, 64, 128, 4, 4), Tiles(64, 64, 128, 4, 4)
    table = ((16, few), (ANY, many))
    assert [choose(table, rows) for rows in (1, 16, 17, 100_000)] == [few, few, many, many]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(("parts", "rows", "columns"), [(2, 1, 63), (16, 3, 100), (5, 2, 256)])
def test_parts_are_summed(
    parts: int, rows: int, columns: int, has_bias: bool, dtype: torch.dtype, device: torch.device
) -> None:
    """Sizes below, at and above a tile; nothing beside the result is written."""
    summands = torch.randn(parts, rows, columns, device=device)
    bias = torch.randn(columns, device=device).to(dtype) if has_bias else None
    out = Guarded(torch.full((rows, columns), float("nan"), dtype=dtype, device=device))
    sum_parts(summands, bias, out.tensor)
    out.check()
    expected = summands.double().sum(0)
    assert_near("out", out.tensor, expected if bias is None else expected + bias.double())
