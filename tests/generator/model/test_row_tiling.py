"""How calls are padded and cut, for products that add up differently by their number of rows."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.generator.model.row_tiling import ONE_BY_ONE, Product, RowTiling, find_tiling


def product(is_odd: Callable[[int], bool]) -> Product:
    """Return a product whose results are off by one bit when called with an odd number of rows."""

    def multiply(x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        out = x * 2.0 + (0.0 if residual is None else residual)
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
def test_the_widest_tiling_is_found(is_odd: Callable[[int], bool], expected: RowTiling) -> None:
    """Few rows are padded and many cut, no more than it takes; at worst each row goes alone."""
    assert find_tiling(product(is_odd), 8, 8, torch.float32) == expected


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
