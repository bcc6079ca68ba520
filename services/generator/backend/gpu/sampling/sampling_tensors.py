"""Sampling tensors: the arguments of the sampling kernel, from the draws of its rows."""

from collections.abc import Sequence

import torch

from services.generator.backend.gpu.sampling.host_sampling import samples_on_host
from services.generator.engine.draw import Draw

# what float32 cannot hold would be infinity, and so would its product with the noise
_MAX_TEMPERATURE = 1e30


def sampling_tensors(draws: Sequence[Draw], vocab_size: int) -> dict[str, torch.Tensor]:
    """Return the arguments [S] of `triton.sampling.sample` by name, in host memory.

    Rows that are sampled on the host are greedy here, which is quickest. A draw's random numbers
    follow from its request's seed and the index of its token in the output.
    """
    params = [draw.params for draw in draws]
    temperatures = [
        0.0 if p.is_greedy or samples_on_host(draw) else min(p.temperature, _MAX_TEMPERATURE)
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
