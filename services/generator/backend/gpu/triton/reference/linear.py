"""What the products with quantised weights compute, in float64."""

import torch

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


def w4a16_weight(values: torch.Tensor, zeros: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Return the weight [N, K] of values [K, N], zeros and scales [G, N]."""
    group = values.shape[0] // scales.shape[0]
    zeros, scales = (part.double().repeat_interleave(group, 0) for part in (zeros, scales))
    return ((values - zeros) * scales).T


def w4a16_offset_weight(
    values: torch.Tensor, scales: torch.Tensor, offsets: torch.Tensor, group: int
) -> torch.Tensor:
    """Return the weight [N, K] of values [K, N], scales and offsets [ceil(K / group), N]."""
    depth = len(values)
    wide = (part.double().repeat_interleave(group, 0)[:depth] for part in (scales, offsets))
    scales, offsets = wide
    return (values * scales + offsets).T


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
