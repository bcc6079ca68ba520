"""How calls are padded and cut, for products that add up differently by their number of rows."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.generator.backend.cpu.linear.row_tiling import (
    ONE_BY_ONE,
    Product,
    RowTiling,
    find_tiling,
)


def product(is_odd: Callable[[int], bool], adds: bool) -> Product:
    """Return a product whose results are off by one bit when called with an odd number of rows."""

    def multiply(x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        out = x * 2.0 + (0.0 if residual is None else residual)
        assert adds == (residual is not None)
        return out.nextafter(torch.tensor(torch.inf)) if is_odd(len(x)) else out

    return multiply


@pytest.mark.parametrize(
    ("is_odd", "expected"),
    [
        (lambda rows: False, RowTiling(1, 512)),
        (lambda rows: rows == 1, RowTiling(2, 512)),
        (lambda rows: rows % 4 != 0 and rows < 12, RowTiling(16, 512)),
        (lambda rows: rows > 128, RowTiling(1, 128)),
        (lambda rows: rows >= 64 or rows < 3, RowTiling(4, 32)),
        (lambda rows: rows % 2 == 1, ONE_BY_ONE),
    ],
)
@pytest.mark.parametrize("adds", [False, True])
def test_the_widest_tiling_is_found(
    is_odd: Callable[[int], bool], expected: RowTiling, adds: bool
) -> None:
    """Few rows are padded and many cut, no more than it takes; at worst each row goes alone."""
    assert find_tiling(product(is_odd, adds), 8, 8, torch.float32, adds) == expected


def test_adding_shows_what_rounding_hides() -> None:
    """A last bit of single rows' float32 sums is found behind the bfloat16 they are rounded to."""

    def add(x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        assert residual is not None
        out = x.float() / 3.0
        out = out.nextafter(torch.tensor(torch.inf)) if len(x) == 1 else out
        return (residual.float() + out).bfloat16()

    assert find_tiling(add, 16, 16, torch.bfloat16, adds=True) == RowTiling(2, 512)


@pytest.mark.parametrize(("rounds_before", "num_calls"), [(False, 256), (True, 512)])
def test_more_is_compared_where_rounding_hides(rounds_before: bool, num_calls: int) -> None:
    """Sums that are rounded before the residual is added take more rows to show a difference."""
    num_single = 0

    def add(x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        nonlocal num_single
        assert residual is not None
        num_single += len(x) == 1
        out = x.float() / 3.0
        return residual + out.bfloat16() if rounds_before else (residual.float() + out).bfloat16()

    assert find_tiling(add, 16, 16, torch.bfloat16, adds=True) == RowTiling(1, 512)
    assert num_single == num_calls


def test_a_large_product_is_tried_with_few_rows() -> None:
    """The probe's work is bounded: a product of many weights is cut sooner."""
    seen = []

    def multiply(x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        seen.append(len(x))
        return x[:, :1].expand(-1, 2**20)

    assert find_tiling(multiply, 2**7, 2**20, torch.float32) == RowTiling(1, 32)
    assert max(seen) == 32


@given(
    st.integers(0, 70),
    st.sampled_from([1, 2, 4, 8, 16]),
    st.sampled_from([16, 32, 64]),
    st.booleans(),
)
def test_every_row_is_computed_once_within_the_bounds(
    rows: int, least: int, most: int, adds: bool
) -> None:
    """Each call has from `least` to `most` rows, however many there are, and they stay in order."""
    sizes = []

    def multiply(x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        sizes.append(len(x))
        return x * 2.0 if residual is None else x * 2.0 + residual

    x = torch.arange(rows * 3, dtype=torch.float32).view(rows, 3)
    residual = x.flip(1) if adds else None
    out = RowTiling(least, most).apply(multiply, x, residual)
    assert torch.equal(out, x * 2.0 if residual is None else x * 2.0 + residual)
    assert all(least <= size <= most for size in sizes) or rows == 0
