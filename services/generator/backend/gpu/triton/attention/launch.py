"""Launches of the attention kernels."""

from typing import NamedTuple

import triton


class Launch(NamedTuple):
    """A program's tile of query rows and keys, and how it is run."""

    rows: int
    keys: int
    num_warps: int
    num_stages: int

    @property
    def options(self) -> dict[str, int]:
        """What the compiler takes."""
        return {"num_warps": self.num_warps, "num_stages": self.num_stages}


def head_tile(head_dim: int) -> int:
    """Return the power of two that holds a head, and no less than a product takes."""
    return max(16, int(triton.next_power_of_2(head_dim)))
