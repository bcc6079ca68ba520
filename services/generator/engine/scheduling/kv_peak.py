"""The most KV blocks that a set of requests will hold at one time over their remaining lives."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Demand(NamedTuple):
    """One request: the tokens it must hold now, and the tokens it is expected to add.

    `num_tokens` leaves out what another, longer-lived request holds as well.
    """

    num_tokens: int
    num_remaining: int


def peak_blocks(demands: Iterable[Demand], block_size: int) -> int:
    """Return the peak if all grow by one token a step, with half an empty block for each.

    The sum grows until a request ends, so its maxima lie where one ends; sorted by remaining
    tokens each is one product. The idea is LightLLM's future-peak estimate.
    """
    peak = num_held = 0
    by_remaining = sorted(demands, key=lambda demand: demand.num_remaining, reverse=True)
    for count, demand in enumerate(by_remaining, start=1):
        num_held += demand.num_tokens + block_size // 2
        peak = max(peak, num_held + count * demand.num_remaining)
    return peak // block_size
