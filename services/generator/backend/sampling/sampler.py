"""Sampling of one token per row of logits, by the row, its request's seed and its position.

Each draw uses one uniform number from a counter-based generator, so that it is the same alone,
in a batch, after drafts, and again after a preemption. Order of the filters: temperature, min_p,
top_k, top_p as in vLLM, then typical_p, which comes last in transformers; each is a share of what
the ones before it left. Logits processors have changed the logits before.
"""

from collections.abc import Sequence
from hashlib import blake2b

import torch

from services.generator.engine.draw import Draw
from services.generator.engine.sampling_params import SamplingParams

# How many of the best candidates are looked at. A row that may keep more costs a full sort. The
# width follows from the row's own options, so that ties fall alike alone and in any batch.
_WIDTHS = (64, 256)
_FAILED = -1


def sample(logits: torch.Tensor, draws: Sequence[Draw]) -> list[int | None]:
    """Return a token id per row of `logits` [S, vocab], None where the row is not finite."""
    # max is several times faster than argmax here, and its value shows NaN and infinity.
    best, tokens = logits.max(dim=-1)
    rows = [row for row, draw in enumerate(draws) if not draw.params.is_greedy]
    if rows:
        drawn = _draw(logits[rows], best[rows], [draws[row] for row in rows])
        tokens[rows] = drawn
    # The step's only transfer from tensors to Python.
    checked = tokens.where(best.isfinite(), _FAILED).tolist()
    return [None if token_id == _FAILED else token_id for token_id in checked]


def uniform(seed: int, index: int) -> float:
    """Return the `index`-th number of a seed's stream in [0, 1), with 53 random bits."""
    key = (seed % 2**64).to_bytes(8, "little")
    digest = blake2b(index.to_bytes(8, "little"), key=key, digest_size=8).digest()
    return float((int.from_bytes(digest, "little") >> 11) * 2.0**-53)


def _draw(logits: torch.Tensor, best: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    """Return int64 tokens [R] for rows that are not greedy."""
    temperatures = torch.tensor([draw.params.temperature for draw in draws])
    # Relative to the best, so that exp never overflows however low the temperature.
    scaled = (logits.float() - best.float().unsqueeze(1)) / temperatures.unsqueeze(1)
    tokens = torch.empty(len(draws), dtype=torch.int64)
    for width, rows in _by_width(draws, scaled.shape[1]).items():
        kept = [draws[row] for row in rows]
        if width is None:
            tokens[rows] = _pick(scaled[rows].exp_(), _uniforms(kept))
        else:
            tokens[rows] = _draw_truncated(scaled[rows], kept, width)
    return tokens


def _by_width(draws: Sequence[Draw], vocab_size: int) -> dict[int | None, list[int]]:
    """Return the rows by how many candidates they look at; None for all, in any order."""
    groups: dict[int | None, list[int]] = {}
    for row, draw in enumerate(draws):
        groups.setdefault(_width(draw.params, vocab_size), []).append(row)
    return groups


def _width(params: SamplingParams, vocab_size: int) -> int | None:
    if not params.truncates:
        return None
    if params.top_k > 0:
        wanted = params.top_k
    else:
        # a nucleus is seldom wider; typical_p by itself needs the whole distribution
        cuts_tail = params.top_p < 1.0 or params.min_p > 0.0
        wanted = _WIDTHS[-1] if cuts_tail else vocab_size
    fitting = (width for width in _WIDTHS if wanted <= width < vocab_size)
    return next(fitting, vocab_size)


def _draw_truncated(scaled: torch.Tensor, draws: Sequence[Draw], width: int) -> torch.Tensor:
    """Draw among the `width` best; rows that keep more are drawn again among all."""
    vocab_size = scaled.shape[1]
    top_k = _column([draw.params.top_k or vocab_size for draw in draws])
    top_p = _column([draw.params.top_p for draw in draws])
    min_p = _column([draw.params.min_p for draw in draws])
    values, candidates = scaled.topk(width)
    # relative to the best candidate's, so that min_p is a plain bound
    weights = values.exp_()
    weights.masked_fill_((torch.arange(width) >= top_k) | (weights < min_p), 0.0)
    cumulative = weights.cumsum(1)
    kept = cumulative[:, -1:]
    is_open = (top_k > width) & (weights[:, -1:] > 0.0) & (width < vocab_size)
    totals = torch.where(is_open, _mass(scaled, min_p), kept) if is_open.any() else kept
    nucleus = top_p * totals
    weights.masked_fill_(cumulative - weights >= nucleus, 0.0)
    _keep_typical_(weights, draws)
    ranks = _pick(weights, _uniforms(draws))
    tokens = candidates.gather(1, ranks.unsqueeze(1)).squeeze(1)
    short = (is_open & (kept < nucleus)).squeeze(1).nonzero().flatten()
    if len(short):
        wider = [draws[row] for row in short.tolist()]
        tokens[short] = _draw_truncated(scaled[short], wider, vocab_size)
    return tokens


def _mass(scaled: torch.Tensor, min_p: torch.Tensor) -> torch.Tensor:
    """Return [R, 1] the weight of all tokens that min_p leaves.

    Summed in float64, so that the grouping of the sum, which depends on the batch, is not seen.
    """
    weights = scaled.exp()
    weights.masked_fill_(weights < min_p, 0.0)
    return weights.sum(1, keepdim=True, dtype=torch.float64).float()


def _keep_typical_(weights: torch.Tensor, draws: Sequence[Draw]) -> None:
    """Zero in place what typical_p drops of each row.

    Locally typical sampling (Meister et al. 2023, arXiv:2202.00666): of the tokens whose surprise
    is nearest to the distribution's entropy, the fewest that make up the share.
    """
    rows = [row for row, draw in enumerate(draws) if draw.params.typical_p < 1.0]
    if not rows:
        return
    typical_p = _column([draws[row].params.typical_p for row in rows])
    # summed in float64 as in `_mass`
    totals = weights[rows].sum(1, keepdim=True, dtype=torch.float64).float()
    probabilities = weights[rows] / totals
    surprises = -probabilities.log()
    entropies = torch.special.entr(probabilities).sum(1, keepdim=True, dtype=torch.float64).float()
    # a token without weight has infinite surprise and so comes last
    order = (surprises - entropies).abs().sort(dim=1, stable=True).indices
    ordered = probabilities.gather(1, order)
    is_dropped = ordered.cumsum(1) - ordered >= typical_p
    dropped = torch.zeros_like(is_dropped).scatter_(1, order, is_dropped)
    weights[rows] = weights[rows].masked_fill(dropped, 0.0)


def _column(values: list[float]) -> torch.Tensor:
    return torch.tensor(values).unsqueeze(1)


def _uniforms(draws: Sequence[Draw]) -> torch.Tensor:
    return torch.tensor([uniform(draw.request.seed, draw.output_index) for draw in draws])


def _pick(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Return per row the first column whose cumulated weight exceeds the uniform's share."""
    cumulative = weights.cumsum(1)
    totals = cumulative[:, -1:].contiguous()
    # Rounding may lift a share to the total, which no column exceeds.
    shares = (uniforms.unsqueeze(1) * totals).minimum(totals.nextafter(torch.zeros(())))
    columns = torch.searchsorted(cumulative, shares, right=True).squeeze(1)
    return columns.clamp_(max=weights.shape[1] - 1)
