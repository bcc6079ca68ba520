"""What the sampling kernel must know of each row, from its draw."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from services.generator.backend.gpu.sampling.host_sampling import is_drawn_on_host
from services.generator.engine.draw import Draw

# what float32 cannot hold would be infinity, and so would its product with the noise
_MAX_TEMPERATURE = 1e30


def row_params(draws: Sequence[Draw], vocab_size: int) -> dict[str, torch.Tensor]:
    """Return the arguments [S] of `kernels.sample` by name, in host memory.

    Rows that are drawn on the host are as quick as greedy ones. A draw's random numbers follow
    from its request's seed and the place of its token in the output.
    """
    params = [draw.params for draw in draws]
    temperatures = [
        0.0 if p.is_greedy or is_drawn_on_host(draw) else min(p.temperature, _MAX_TEMPERATURE)
        for p, draw in zip(params, draws, strict=True)
    ]
    return {
        "temperature": torch.tensor(temperatures),
        "top_k": torch.tensor([min(p.top_k, vocab_size) for p in params], dtype=torch.int32),
        "top_p": torch.tensor([p.top_p for p in params]),
        "min_p": torch.tensor([p.min_p for p in params]),
        "seeds": torch.tensor([_int64(d.request.seed) for d in draws], dtype=torch.int64),
        "positions": torch.tensor([d.output_index for d in draws], dtype=torch.int64),
    }


def _int64(seed: int) -> int:
    """Return the two's complement of a seed's lowest 64 bits."""
    return (seed + 2**63) % 2**64 - 2**63
