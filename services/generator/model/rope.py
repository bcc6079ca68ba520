"""Rotary positions (Su et al. 2021, arXiv:2104.09864) in the half-split form of Llama."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from services.generator.model.rope_config import RopeConfig


class Rotation(NamedTuple):
    """The angles of one step's tokens, made once and used by every layer."""

    cos: torch.Tensor  # [T, 1, 1, head_dim / 2]
    sin: torch.Tensor  # [T, 1, 2, head_dim / 2], the first half negated

    def apply_(self, x: torch.Tensor) -> None:
        """Rotate heads in place; `x` is [T, heads, 2, head_dim / 2] in the rotation's dtype."""
        swapped = x.flip(-2)
        x.mul_(self.cos).add_(swapped.mul_(self.sin))


def rotation(positions: torch.Tensor, frequencies: torch.Tensor, dtype: torch.dtype) -> Rotation:
    """Return the rotation of `positions` [T]; angles are computed in float32."""
    angles = positions.to(torch.float32).unsqueeze(1) * frequencies
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    return Rotation(cos[:, None, None, :], torch.stack((-sin, sin), dim=1).unsqueeze(1))


def rope_frequencies(config: RopeConfig, head_dim: int) -> torch.Tensor:
    """Return the float32 angular frequencies [head_dim / 2] after the configured scaling."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    frequencies = 1.0 / config.theta**exponents
    if config.kind == "linear":
        return frequencies / config.factor
    if config.kind == "llama3":
        return _scale_llama3(config, frequencies)
    return frequencies


def _scale_llama3(config: RopeConfig, frequencies: torch.Tensor) -> torch.Tensor:
    """Slow down long wavelengths, keep short ones, blend in between (Llama 3.1's rule)."""
    wavelengths = 2 * math.pi / frequencies
    turns = config.original_context_length / wavelengths
    span = config.high_freq_factor - config.low_freq_factor
    keep = ((turns - config.low_freq_factor) / span).clamp(0.0, 1.0)
    return (1 - keep) * frequencies / config.factor + keep * frequencies
