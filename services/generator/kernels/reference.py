"""What each kernel computes, in plain torch and in float64 where sums are long.

For tests and for reading; nothing here is fast.
"""

from __future__ import annotations

import torch


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, offset: float = 0.0
) -> torch.Tensor:
    """Return `x / rms(x) * (weight + offset)` in float64; `x` is [T, N]."""
    wide = x.double()
    scale = (wide.square().mean(-1, keepdim=True) + eps).rsqrt()
    return wide * scale * (weight.double() + offset)
