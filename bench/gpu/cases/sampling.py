"""From logits to tokens: a step's draws, and their log-probabilities."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from bench.gpu.cases.case import BF16, Calls, Case
from services.generator.backend.gpu.triton.sampling.logprobs import logprobs
from services.generator.backend.gpu.triton.sampling.sample import sample

VOCAB = 151936
TOP = 5


def sampling() -> Iterator[Case]:
    """Yield both at several batches, over the vocabulary of Qwen 3."""
    for rows in (1, 64, 256):
        num_bytes = 2 * rows * VOCAB
        yield Case(
            f"sample, {rows} x {VOCAB}, top_k and top_p",
            partial(drawn, rows, VOCAB),
            num_bytes,
            compiles=True,
            tolerance=0.05,
            error=share_outside,
        )
        make = partial(described, rows, VOCAB)
        yield Case(f"logprobs, {rows} x {VOCAB}, top {TOP}", make, num_bytes, compiles=True)


def drawn(rows: int, vocab: int, dtype: torch.dtype = BF16) -> Calls:
    """Return both calls of one case."""
    logits = torch.randn(rows, vocab, dtype=dtype)
    temperature, top_p = torch.full((rows,), 0.8), torch.full((rows,), 0.9)
    top_k = torch.full((rows,), min(50, vocab), dtype=torch.int32)
    seeds, positions = torch.arange(rows), torch.zeros(rows, dtype=torch.int64)
    filters = (temperature, top_k, top_p)
    ours = partial(sample, logits, *filters, torch.zeros(rows), seeds, positions)
    return ours, partial(torch_sample, logits, *filters)


def torch_sample(
    logits: torch.Tensor, temperature: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a draw [S], the tokens by their logits [S, V], and which of them could be drawn."""
    scaled = logits.float() / temperature[:, None]
    values, order = scaled.sort(dim=1, descending=True, stable=True)
    places = torch.arange(logits.shape[1], device=logits.device)
    is_kept = places < top_k[:, None]
    shares = values.masked_fill(~is_kept, -torch.inf).softmax(1)
    is_kept &= shares.cumsum(1) - shares < top_p[:, None]
    noise = torch.empty_like(shares).exponential_()
    best = (shares.where(is_kept, 0.0) / noise).argmax(1, keepdim=True)
    return order.gather(1, best).squeeze(1), order, is_kept


def share_outside(ours: Any, other: Any) -> float:
    """Return the share of the draws that torch's filters would not let through."""
    _, order, is_kept = other
    could_be = ((order == ours[:, None]) & is_kept).any(1)
    return 1.0 - float(could_be.double().mean())


def described(rows: int, vocab: int, dtype: torch.dtype = BF16) -> Calls:
    """Return both calls of one case."""
    logits = torch.randn(rows, vocab, dtype=dtype)
    ids = torch.randint(0, vocab, (rows,))

    def ours() -> tuple[torch.Tensor, ...]:
        # of equal logits another id may come first
        return logprobs(logits, ids, TOP)[:3]

    return ours, partial(torch_logprobs, logits, ids)


def torch_logprobs(logits: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the tokens' log-probabilities and ranks, and the best values."""
    wide = logits.float().log_softmax(1)
    chosen = wide.gather(1, ids[:, None])
    return chosen.squeeze(1), (wide > chosen).sum(1) + 1, wide.topk(TOP, dim=1).values
