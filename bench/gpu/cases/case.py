"""One kernel in one shape, ours and torch's, and how far apart their results are."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

BF16 = torch.bfloat16
Call = Callable[[], Any]
Calls = tuple[Call, "partial[Any]"]


def relative_error(ours: Any, other: Any) -> float:
    """Return the root mean square of the difference, relative to torch's; of several the worst."""
    if isinstance(other, tuple):
        return max(relative_error(*pair) for pair in zip(ours, other, strict=True))
    wide, expected = ours.double(), other.double()
    error = float((wide - expected).norm() / expected.norm().clamp(min=1e-30))
    return error if math.isfinite(error) else math.inf


@dataclass(frozen=True)
class Case:
    """`make` returns ours and torch's call on fresh inputs; ours alone may write to them.

    `num_bytes` must be moved and `num_flops` computed, whatever computes it; the larger share of
    the two ceilings is the one that counts, and `aim` is what it should be. `compiles` where
    torch.compile can do better than torch's operations one by one.
    """

    name: str
    make: Callable[[], Calls]
    num_bytes: float
    num_flops: float = 0.0
    aim: float | None = None
    compiles: bool = False
    tolerance: float = 2e-2
    error: Callable[[Any, Any], float] = relative_error
