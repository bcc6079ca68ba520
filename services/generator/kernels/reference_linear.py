"""What the products with quantised weights compute, in float64."""

from __future__ import annotations

import torch

# where a word's nibbles, from the lowest bits, belong among its eight values
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
LARGEST_FP8 = 448.0


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return `x @ weight.T + bias`."""
    out = x.double() @ weight.double().T
    return out if bias is None else out + bias.double()


def linear_w8a16(
    x: torch.Tensor, weight: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Return `x @ (weight * scales[:, None]).T + bias`."""
    return linear(x, weight.double() * scales.double()[:, None], bias)


def nibbles(
    words: torch.Tensor, dim: int, order: tuple[int, ...] = tuple(range(8))
) -> torch.Tensor:
    """Return int64 with `dim` eight times as long: the nibble at bits 4i is value `order[i]`."""
    values = [(words.long() >> 4 * order.index(value)) & 15 for value in range(8)]
    return torch.stack(values, dim + 1).flatten(dim, dim + 1)


def gptq_weight(
    qweight: torch.Tensor, qzeros: torch.Tensor, scales: torch.Tensor, zero_offset: int = 1
) -> torch.Tensor:
    """Return the weight [N, K] of GPTQ's words."""
    return _weight(nibbles(qweight, 0), (nibbles(qzeros, 1) + zero_offset) % 16, scales)


def awq_weight(qweight: torch.Tensor, qzeros: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Return the weight [N, K] of AWQ's words."""
    return _weight(nibbles(qweight, 1, AWQ_ORDER), nibbles(qzeros, 1, AWQ_ORDER), scales)


def _weight(values: torch.Tensor, zeros: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    group = values.shape[0] // scales.shape[0]
    zeros, scales = (part.repeat_interleave(group, 0) for part in (zeros, scales))
    return ((values - zeros) * scales.double()).T


def linear_fp8(
    x: torch.Tensor,
    weight: torch.Tensor,
    x_scale: torch.Tensor,
    weight_scale: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return `(x * x_scale) @ (weight * weight_scale).T + bias`."""
    rows = x.double() * x_scale.double().reshape(-1, 1)
    return linear(rows, weight.double() * weight_scale.double().reshape(-1, 1), bias)


def quantize_fp8(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `x` in float8_e4m3fn with a scale for each row."""
    scales = x.float().abs().amax(-1).clamp(min=1e-12) / LARGEST_FP8
    return (x.float() / scales[:, None]).to(torch.float8_e4m3fn), scales
