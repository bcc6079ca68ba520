"""Weights of four bits, at random and packed as the formats say."""

import torch

from services.generator.backend.gpu.triton.reference.linear import w4a16_weight

AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def rounded(
    columns: int, depth: int, group: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return values [K, N], zeros and scales [G, N]."""
    values = torch.randint(0, 16, (depth, columns), device=device)
    zeros = torch.randint(0, 16, (depth // group, columns), device=device)
    scales = (torch.rand(depth // group, columns, device=device) / 8 + 0.01).half()
    return values, zeros, scales


def packed(values: torch.Tensor, dim: int, order: list[int]) -> torch.Tensor:
    """Return int32 words of eight values along `dim`, in this order from the lowest bits."""
    words = torch.zeros_like(values.narrow(dim, 0, values.shape[dim] // 8))
    for position, value in enumerate(order):
        index = torch.arange(value, values.shape[dim], 8, device=values.device)
        words |= values.index_select(dim, index) << 4 * position
    return torch.where(words >= 2**31, words - 2**32, words).int()


def quantised(
    columns: int, depth: int, group: int, is_awq: bool, device: torch.device, zero_offset: int = 1
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return words, zeros and scales, and the weight [N, K] that they stand for, in float64."""
    values, zeros, scales = rounded(columns, depth, group, device)
    if is_awq:
        words, stored = packed(values, 1, AWQ_ORDER), packed(zeros, 1, AWQ_ORDER)
    else:
        straight = list(range(8))
        words = packed(values, 0, straight)
        stored = packed((zeros - zero_offset) % 16, 1, straight)
    weight = w4a16_weight(values, zeros, scales)
    return {"qweight": words, "qzeros": stored, "scales": scales}, weight
