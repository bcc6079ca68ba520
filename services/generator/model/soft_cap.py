"""A smooth bound on scores."""

from __future__ import annotations

import torch


def soft_cap_(x: torch.Tensor, cap: float) -> torch.Tensor:
    """Squeeze `x` smoothly into (-cap, cap), in place (Gemma 2, arXiv:2408.00118)."""
    return x.div_(cap).tanh_().mul_(cap)
