"""RoPE, rotary positions (Su et al. 2021, arXiv:2104.09864), in the half-split form of Llama."""

import math
from typing import NamedTuple

import torch

from services.generator.model.checkpoint.rope_config import RopeConfig


class Rotation(NamedTuple):
    """The angles of one step's tokens in float32, made once and used by every layer."""

    cos: torch.Tensor  # [T, 1, 1, dim / 2]
    sin: torch.Tensor  # [T, 1, 2, dim / 2], the first half negated

    def apply_(self, x: torch.Tensor) -> None:
        """Rotate heads in place; `x` is [T, heads, 2, dim / 2] of any dtype."""
        swapped = x.flip(-2)
        x.mul_(self.cos).add_(swapped.mul_(self.sin))


class Rope:
    """Makes rotations for one set of rotary settings."""

    def __init__(self, config: RopeConfig) -> None:
        self._frequencies = rope_frequencies(config)
        self._factor = config.attention_factor

    def __call__(self, positions: torch.Tensor) -> Rotation:
        """Return the rotation of `positions` [T]."""
        angles = positions.to(torch.float32).unsqueeze(1) * self._frequencies
        cos, sin = angles.cos() * self._factor, angles.sin() * self._factor
        return Rotation(cos[:, None, None, :], torch.stack((-sin, sin), dim=1).unsqueeze(1))


def rope_frequencies(config: RopeConfig) -> torch.Tensor:
    """Return the float32 angular frequencies [dim / 2] after the configured scaling."""
    exponents = torch.arange(0, config.dim, 2, dtype=torch.float32) / config.dim
    periods = config.theta**exponents
    if config.kind == "linear":
        return 1.0 / periods / config.factor
    if config.kind == "llama3":
        return _scale_llama3(config, 1.0 / periods)
    if config.kind == "yarn":
        return _scale_yarn(config, 1.0 / periods)
    if config.kind == "longrope":
        return 1.0 / (torch.tensor(config.divisors) * periods)
    return 1.0 / periods


def _scale_llama3(config: RopeConfig, frequencies: torch.Tensor) -> torch.Tensor:
    """Slow down long wavelengths, keep short ones, blend in between (Llama 3.1's rule)."""
    wavelengths = 2 * math.pi / frequencies
    turns = config.original_context_length / wavelengths
    span = config.high_freq_factor - config.low_freq_factor
    keep = ((turns - config.low_freq_factor) / span).clamp(0.0, 1.0)
    return (1 - keep) * frequencies / config.factor + keep * frequencies


def _scale_yarn(config: RopeConfig, frequencies: torch.Tensor) -> torch.Tensor:
    """Slow down dimensions by how often they turn in the original context (arXiv:2309.00071)."""

    def dimension(turns: float) -> float:
        length = config.original_context_length / (turns * 2 * math.pi)
        return config.dim * math.log(length) / (2 * math.log(config.theta))

    low, high = dimension(config.beta_fast), dimension(config.beta_slow)
    if config.truncates:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, config.dim - 1)
    # A ramp of no width would divide by zero.
    width = (high - low) or 0.001
    slowed = ((torch.arange(config.dim // 2) - low) / width).clamp(0.0, 1.0)
    return frequencies / config.factor * slowed + frequencies * (1 - slowed)
