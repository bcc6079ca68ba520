"""What the elementwise kernels compute, in plain torch and float64, for tests and for reading."""

import torch


def rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate the first R of D dimensions of heads [T, heads, D]; angles are [T, R / 2]."""
    half = cos.shape[1]
    first, second, rest = x.double().split((half, half, x.shape[-1] - 2 * half), -1)
    cos, sin = cos.double().unsqueeze(1), sin.double().unsqueeze(1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), -1)


def rope_write(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    num_heads: int,
    num_kv_heads: int,
    norm_weight: torch.Tensor | None = None,
    eps: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return queries [T, H, D], keys and values [T, KVH, D] of `qkv`, normalised and rotated."""
    heads = num_heads + 2 * num_kv_heads
    x = qkv.double().unflatten(1, (heads, -1))
    turning, values = x.split((heads - num_kv_heads, num_kv_heads), 1)
    if norm_weight is not None:
        scale = (turning.square().mean(-1, keepdim=True) + eps).rsqrt()
        turning = turning * scale * norm_weight.double()
    queries, keys = rotated(turning, cos, sin).split((num_heads, num_kv_heads), 1)
    return queries, keys, values


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
