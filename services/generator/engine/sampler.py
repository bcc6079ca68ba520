"""Draws one token per row of logits. A draw depends on the row, its request's seed and position.

Each draw uses one uniform number from a counter-based generator, so that it is the same alone,
in a batch, and again after a preemption.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import torch

from services.generator.engine.request import Request

# Candidates looked at for top_p without top_k; a nucleus that is wider costs a full sort.
_NUCLEUS_WIDTH = 256
_FAILED = -1


def sample(logits: torch.Tensor, requests: Sequence[Request]) -> list[int | None]:
    """Return a token id per row of `logits` [S, vocab], None where the row is not finite.

    Changes `logits` in place for rows that must not stop yet.
    """
    _hold_back_stops(logits, requests)
    # max is several times faster than argmax here, and its value tells of NaN and infinity.
    best, tokens = logits.max(dim=-1)
    rows = [row for row, request in enumerate(requests) if not request.params.is_greedy]
    if rows:
        drawn = _draw(logits[rows], best[rows], [requests[row] for row in rows])
        tokens[rows] = drawn
    # The step's only transfer from tensors to Python.
    checked = tokens.where(best.isfinite(), _FAILED).tolist()
    return [None if token_id == _FAILED else token_id for token_id in checked]


def uniform(seed: int, index: int) -> float:
    """Return the `index`-th number of a seed's stream in [0, 1), with 53 random bits."""
    key = (seed % 2**64).to_bytes(8, "little")
    digest = blake2b(index.to_bytes(8, "little"), key=key, digest_size=8).digest()
    return float((int.from_bytes(digest, "little") >> 11) * 2.0**-53)


def _hold_back_stops(logits: torch.Tensor, requests: Sequence[Request]) -> None:
    rows: list[int] = []
    columns: list[int] = []
    for row, request in enumerate(requests):
        if request.num_output_tokens < request.params.min_tokens:
            columns += request.stop_token_ids
            rows += [row] * len(request.stop_token_ids)
    if rows:
        logits[rows, columns] = float("-inf")


def _draw(logits: torch.Tensor, best: torch.Tensor, requests: Sequence[Request]) -> torch.Tensor:
    """Return int64 tokens [R] for rows that are not greedy."""
    temperatures = torch.tensor([request.params.temperature for request in requests])
    # Relative to the best, so that exp never overflows however low the temperature.
    scaled = (logits.float() - best.float().unsqueeze(1)) / temperatures.unsqueeze(1)
    tokens = torch.empty(len(requests), dtype=torch.int64)
    whole, cut = _split_by_truncation(requests)
    if whole:
        uniforms = _uniforms([requests[row] for row in whole])
        tokens[whole] = _pick(scaled[whole].exp_(), uniforms)
    if cut:
        kept = [requests[row] for row in cut]
        width = max(request.params.top_k or _NUCLEUS_WIDTH for request in kept)
        tokens[cut] = _draw_truncated(scaled[cut], kept, min(width, scaled.shape[1]))
    return tokens


def _split_by_truncation(requests: Sequence[Request]) -> tuple[list[int], list[int]]:
    whole: list[int] = []
    cut: list[int] = []
    for row, request in enumerate(requests):
        truncates = request.params.top_k > 0 or request.params.top_p < 1.0
        (cut if truncates else whole).append(row)
    return whole, cut


def _draw_truncated(scaled: torch.Tensor, requests: Sequence[Request], width: int) -> torch.Tensor:
    """Draw among the `width` best; rows whose nucleus is wider are drawn again among all."""
    vocab_size = scaled.shape[1]
    top_k = torch.tensor([r.params.top_k or vocab_size for r in requests]).unsqueeze(1)
    top_p = torch.tensor([r.params.top_p for r in requests]).unsqueeze(1)
    values, candidates = scaled.topk(width)
    weights = values.exp_().masked_fill_(torch.arange(width) >= top_k, 0.0)
    totals = torch.where(
        top_k <= width, weights.sum(1, keepdim=True), scaled.exp().sum(1, keepdim=True)
    )
    cumulative = weights.cumsum(1)
    nucleus = top_p * totals
    weights.masked_fill_(cumulative - weights >= nucleus, 0.0)
    ranks = _pick(weights, _uniforms(requests))
    tokens = candidates.gather(1, ranks.unsqueeze(1)).squeeze(1)
    short = ((top_k > width) & (cumulative[:, -1:] < nucleus)).squeeze(1).nonzero().flatten()
    if width < vocab_size and len(short):
        wider = [requests[row] for row in short.tolist()]
        tokens[short] = _draw_truncated(scaled[short], wider, vocab_size)
    return tokens


def _uniforms(requests: Sequence[Request]) -> torch.Tensor:
    return torch.tensor([uniform(r.seed, r.num_output_tokens) for r in requests])


def _pick(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Return per row the first column whose cumulated weight exceeds the uniform's share."""
    cumulative = weights.cumsum(1)
    totals = cumulative[:, -1:].contiguous()
    # Rounding may lift a share to the total, which no column exceeds.
    shares = (uniforms.unsqueeze(1) * totals).minimum(totals.nextafter(torch.zeros(())))
    columns = torch.searchsorted(cumulative, shares, right=True).squeeze(1)
    return columns.clamp_(max=weights.shape[1] - 1)
