"""How many rows a product may take at once so that no row's bits depend on the others.

Libraries choose their kernel by the number of rows, and kernels add up in different orders
("Defeating nondeterminism in LLM inference", Thinking Machines Lab, 2025). Which numbers of rows
agree is neither documented nor constant, so it is found out by trying, once per shape.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn import functional

# [rows, in] and a residual [rows, out], which plain products ignore, to [rows, out].
Product = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]

_MOST = (512, 256, 128, 64, 32)
_LEAST = (1, 2, 4, 8, 16)
# Around the edges where kernels change; probing them all would take minutes.
_COUNTS = (
    *(1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 96),
    *(127, 128, 129, 192, 255, 256, 257, 384, 511),
)
# Rows times inputs times outputs of the largest probe, which bounds the time it takes.
_PROBE_SIZE = 2**32
# Results to compare for each number of rows. Another order of summation changes a float32 nearly
# always, but the bfloat16 it is rounded to once in some thousands.
_NUM_COMPARED = {torch.float32: 2**12, torch.bfloat16: 2**16}


class RowTiling(NamedTuple):
    """Calls are padded to `least` rows and cut into pieces of `most`."""

    least: int
    most: int

    def apply(
        self, product: Product, x: torch.Tensor, residual: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the product of [rows, in], in as many calls as it takes."""
        count = len(x)
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
def find_tiling(product: Product, inputs: int, outputs: int, dtype: torch.dtype) -> RowTiling:
    """Return the widest tiling in which random rows come out bit for bit alike.

    A probe and no proof: numbers of rows and values that it does not try might differ.
    """
    generator = torch.Generator().manual_seed(0)
    affordable = [most for most in _MOST if most * inputs * outputs <= _PROBE_SIZE]
    ladder = affordable or _MOST[-1:]
    x = torch.randn(ladder[0], inputs, generator=generator).to(dtype)
    residual = torch.randn(ladder[0], outputs, generator=generator).to(dtype)
    for most in ladder:
        least = _least(product, x[:most], residual[:most])
        if least is not None:
            return RowTiling(least, most)
    return ONE_BY_ONE


def _least(product: Product, x: torch.Tensor, residual: torch.Tensor) -> int | None:
    """Return from which number of rows on all calls agree with that of all of `x`, if any."""
    expected = product(x, residual)
    if not torch.equal(product(x.flip(0), residual.flip(0)).flip(0), expected):
        return None
    smallest = len(x)
    for count in sorted((count for count in _COUNTS if count < len(x)), reverse=True):
        if not _agrees(product, x, residual, expected, count):
            break
        smallest = count
    return next((least for least in _LEAST if least >= smallest), None)


def _agrees(
    product: Product, x: torch.Tensor, residual: torch.Tensor, expected: torch.Tensor, count: int
) -> bool:
    """Return whether calls of `count` rows give what `expected` has for them."""
    wanted = -(-_NUM_COMPARED[x.dtype] // (count * expected.shape[1]))
    num_calls = min(wanted, len(x) // count)
    # from the end, so that a row is at another place too
    ends = (len(x) - count * index for index in range(num_calls))
    return all(
        torch.equal(
            product(x[end - count : end], residual[end - count : end]), expected[end - count : end]
        )
        for end in ends
    )
