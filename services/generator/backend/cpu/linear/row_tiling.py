"""Row tiling for batch invariance: how many rows a product may take so that none depends on others.

Libraries choose their kernel by the number of rows, and kernels add up in different orders
("Defeating nondeterminism in LLM inference", Thinking Machines Lab, 2025). Which numbers of rows
agree is neither documented nor constant, so it is found out by trying, once per shape.
"""

import sys
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn import functional

# [rows, in] and a residual [rows, out], which plain products ignore, to [rows, out].
Product = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]

_MOST = (512, 256, 128, 64, 32)
_LEAST = (1, 2, 4, 8, 16)
# Odd ones above all: they leave last rows to every kernel. What lies between is taken to agree.
_COUNTS = (257, 129, 65, 33, 17, 11, 8, 5, 3, 2, 1)
# Rows times inputs times outputs of the largest probe, which bounds the time it takes.
_PROBE_SIZE = 2**32
# Results to compare for each number of rows. Another order of summation changes a float32 sum
# nearly always, but the bfloat16 it is rounded to once in some thousands.
_NUM_SUMS = 2**12
_NUM_ROUNDED = 2**16


class RowTiling(NamedTuple):
    """Calls are padded to `least` rows and cut into pieces of `most`."""

    least: int
    most: int

    def apply(
        self, product: Product, x: torch.Tensor, residual: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the product of [rows, in], in as many calls as it takes."""
        count = x.shape[0]
        if self.least <= count <= self.most or not count:
            return product(x, residual)
        if count < self.least:
            padding = (0, 0, 0, self.least - count)
            padded = None if residual is None else functional.pad(residual, padding)
            return product(functional.pad(x, padding), padded)[:count]
        pieces = torch.split(x, self.most)
        residuals = [None] * len(pieces) if residual is None else torch.split(residual, self.most)
        return torch.cat(
            [self.apply(product, *piece) for piece in zip(pieces, residuals, strict=True)]
        )


ANY_ROWS = RowTiling(0, sys.maxsize)
ONE_BY_ONE = RowTiling(1, 1)


@torch.inference_mode()
def find_tiling(
    product: Product, inputs: int, outputs: int, dtype: torch.dtype, adds: bool = False
) -> RowTiling:
    """Return the widest tiling in which random rows come out bit for bit alike.

    A probe and no proof: numbers of rows and values that it does not try might differ. A product
    that `adds` is given a residual.
    """
    generator = torch.Generator().manual_seed(0)
    affordable = [most for most in _MOST if most * inputs * outputs <= _PROBE_SIZE]
    ladder = affordable or _MOST[-1:]
    rows = torch.randn(ladder[0], inputs, generator=generator).to(dtype)
    for most in ladder:
        x = rows[:most]
        # Cancels the product, so that the result is what rounding it would drop.
        residual = -product(x, x.new_zeros(most, outputs)) if adds else None
        least = _Probe(product, x, residual).least()
        if least is not None:
            return RowTiling(least, most)
    return ONE_BY_ONE


class _Probe:
    """Compares calls of fewer rows with one of all rows."""

    def __init__(self, product: Product, x: torch.Tensor, residual: torch.Tensor | None) -> None:
        self._product = product
        self._x = x
        self._residual = residual
        self._expected = product(x, residual)
        # All zeros where the product is rounded before it is added.
        shows_sums = x.dtype == torch.float32 or (residual is not None and self._expected.any())
        self._num_compared = _NUM_SUMS if shows_sums else _NUM_ROUNDED

    def least(self) -> int | None:
        """Return from which number of rows on all calls agree with that of all rows, if any."""
        if not self._agrees_elsewhere():
            return None
        for count in _COUNTS:
            if count < len(self._x) and not self._agrees(count):
                larger = (least for least in _LEAST if least > count)
                agreeing = (least for least in larger if least in _COUNTS or self._agrees(least))
                return next(agreeing, None)
        return _LEAST[0]

    def _agrees_elsewhere(self) -> bool:
        """Return whether the same rows in reverse order give the same."""
        residual = None if self._residual is None else self._residual.flip(0)
        return torch.equal(self._product(self._x.flip(0), residual).flip(0), self._expected)

    def _agrees(self, count: int) -> bool:
        """Return whether calls of `count` rows give what the call of all rows has for them."""
        wanted = -(-self._num_compared // (count * self._expected.shape[1]))
        num_calls = min(wanted, len(self._x) // count)
        # from the end, so that a row is at another place too
        ends = (len(self._x) - count * index for index in range(num_calls))
        return all(self._agrees_at(slice(end - count, end)) for end in ends)

    def _agrees_at(self, some: slice) -> bool:
        residual = None if self._residual is None else self._residual[some]
        return torch.equal(self._product(self._x[some], residual), self._expected[some])
