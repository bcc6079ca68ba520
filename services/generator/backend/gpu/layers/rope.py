"""RoPE angles looked up by position."""

from typing import NamedTuple

import torch

from services.generator.model.checkpoint.rope_config import RopeConfig
from services.generator.model.rope import Rope


class Angles(NamedTuple):
    """Both float32 [T, dim / 2], their rows apart."""

    cos: torch.Tensor
    sin: torch.Tensor


class AngleTable:
    """The angles of all positions, made once, so that a step looks up one row for each token."""

    def __init__(self, config: RopeConfig, context_length: int, device: torch.device) -> None:
        rotation = Rope(config)(torch.arange(context_length))
        cos, sin = rotation.cos[:, 0, 0], rotation.sin[:, 0, 1]
        self._table = torch.cat((cos, sin), dim=1).to(device)

    def __call__(self, positions: torch.Tensor) -> Angles:
        """Return the angles of int64 positions [T]."""
        return Angles(*self._table.index_select(0, positions).chunk(2, dim=1))


def no_turn(head_dim: int, device: torch.device) -> Angles:
    """Return the angles [1, head_dim / 2] that leave a head as it is."""
    angles = torch.ones(1, head_dim // 2, device=device)
    return Angles(angles, torch.zeros_like(angles))
