"""What products with experts and with adapters compute, in plain torch and float64.

For tests and for reading; nothing here is fast. Ids that name no expert or adapter give zeros.
"""

import torch


def grouped_gemm(x: torch.Tensor, weights: torch.Tensor, topk_ids: torch.Tensor) -> torch.Tensor:
    """Return [T * C, N] of `x` [T, K] or [T * C, K], `weights` [E, N, K] and `topk_ids` [T, C]."""
    rows = x.double()
    if x.shape[0] != topk_ids.numel():
        rows = rows.repeat_interleave(topk_ids.shape[1], dim=0)
    return _by_id(rows, weights.double(), topk_ids.flatten())


def combine(outputs: torch.Tensor, topk_weights: torch.Tensor) -> torch.Tensor:
    """Return [T, N], each token's rows of `outputs` [T * C, N] times its `topk_weights` [T, C]."""
    tokens, choices = topk_weights.shape
    rows = outputs.double().view(tokens, choices, outputs.shape[1])
    return (rows * topk_weights.double()[:, :, None]).sum(1)


def lora_shrink(x: torch.Tensor, a: torch.Tensor, adapter_ids: torch.Tensor) -> torch.Tensor:
    """Return [T, R] of `x` [T, K], `a` [L, R, K] and `adapter_ids` [T]."""
    return _by_id(x.double(), a.double(), adapter_ids)


def lora_expand_add(
    y: torch.Tensor,
    shrunk: torch.Tensor,
    b: torch.Tensor,
    adapter_ids: torch.Tensor,
    scale: torch.Tensor,
) -> torch.Tensor:
    """Return the new `y` [T, N] of `shrunk` [T, R], `b` [L, N, R] and `scale` [L]."""
    scaled = b.double() * scale.double()[:, None, None]
    return y.double() + _by_id(shrunk.double(), scaled, adapter_ids)


def _by_id(rows: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    out = rows.new_zeros(len(rows), weights.shape[1])
    for index, weight in enumerate(weights):
        own = ids == index
        out[own] = rows[own] @ weight.T
    return out
