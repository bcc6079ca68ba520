"""What the elementwise kernels compute, in plain torch and float64, for tests and for reading."""

import torch


def gated_activation(gate_up: torch.Tensor, activation: str) -> torch.Tensor:
    """Return `activation(gate) * up` of [T, 2 N], gate first."""
    gate, up = gate_up.double().chunk(2, 1)
    if activation == "silu":
        return torch.nn.functional.silu(gate) * up
    return torch.nn.functional.gelu(gate, approximate="tanh") * up


def embedding(
    token_ids: torch.Tensor, table: torch.Tensor, scale: float | None = None
) -> torch.Tensor:
    """Return rows of the table [V, N] times `scale`; zeros for ids outside the vocabulary."""
    ids = token_ids.long()
    is_known = (ids >= 0) & (ids < len(table))
    rows = table.double()[ids.where(is_known, 0)] * is_known.unsqueeze(1)
    return rows if scale is None else rows * scale


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, offset: float = 0.0
) -> torch.Tensor:
    """Return `x / rms(x) * (weight + offset)` in float64; `x` is [T, N]."""
    wide = x.double()
    scale = (wide.square().mean(-1, keepdim=True) + eps).rsqrt()
    return wide * scale * (weight.double() + offset)
