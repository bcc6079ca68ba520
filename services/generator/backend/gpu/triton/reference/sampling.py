"""What the kernels over the vocabulary compute, in plain torch and in float64, for tests."""

import torch


def softmax(logits: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    """Return softmax(logits / temperature) [S, V]; at 0 the largest logits share all."""
    wide = logits.double()
    best = wide.amax(1, keepdim=True)
    scaled = (wide - best) / temperature.double().unsqueeze(1)
    return torch.where(wide == best, 0.0, scaled).softmax(1)


def kept(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
) -> torch.Tensor:
    """Return bool [S, V]: what min_p, top_k and top_p leave, by a sort with lower ids first."""
    scaled = logits.double() / temperature.double().unsqueeze(1)
    values, order = scaled.sort(dim=1, descending=True, stable=True)
    weights = (values - values[:, :1]).exp()
    places = torch.arange(logits.shape[1], device=logits.device)
    limits = top_k.where(top_k > 0, logits.shape[1]).unsqueeze(1)
    left = (weights >= min_p.double().unsqueeze(1)) & (places < limits)
    weights = weights.where(left, 0.0)
    before = weights.cumsum(1) - weights
    nucleus = top_p.double().unsqueeze(1) * weights.sum(1, keepdim=True)
    left &= (before < nucleus) | (places == 0) | (top_p >= 1.0).unsqueeze(1)
    return torch.zeros_like(left).scatter_(1, order, left)


def distribution(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
) -> torch.Tensor:
    """Return the probability [S, V] of each token to be drawn, at temperatures above 0."""
    weights = softmax(logits, temperature)
    weights = weights.where(kept(logits, temperature, top_k, top_p, min_p), 0.0)
    return weights / weights.sum(1, keepdim=True)


def gumbel(seed: int, position: int, vocab: int) -> torch.Tensor:
    """Return the noise [vocab] of one draw, from Philox4x32-10 (Salmon et al. 2011).

    The seed is the key; the counter's first word is the token id divided by 4, the next two are
    the position; the token takes the word that is the remainder.
    """
    low = 2**32 - 1
    ids = torch.arange(vocab)
    zeros = torch.zeros_like(ids)
    words = [ids // 4, zeros + (position & low), zeros + (position >> 32), zeros]
    keys = [seed & low, seed >> 32 & low]
    for _ in range(10):
        # of the wrapped product too, these are the halves
        a, b = words[0] * 0xD2511F53, words[2] * 0xCD9E8D57
        first = (b >> 32 & low) ^ words[1] ^ keys[0]
        third = (a >> 32 & low) ^ words[3] ^ keys[1]
        words = [first, b & low, third, a & low]
        keys = [keys[0] + 0x9E3779B9 & low, keys[1] + 0xBB67AE85 & low]
    word = torch.stack(words, 1).gather(1, (ids % 4).unsqueeze(1)).squeeze(1)
    share = ((word.double() + 0.5) * 2.0**-32).clamp(max=1.0 - 2.0**-24)
    return -(-torch.log1p(-share)).log()


def penalized(
    logits: torch.Tensor,
    token_counts: torch.Tensor,
    prompt_mask: torch.Tensor,
    repetition: torch.Tensor,
    frequency: torch.Tensor,
    presence: torch.Tensor,
) -> torch.Tensor:
    """Return the logits [S, V] after the penalties on what the prompt or the output has."""
    wide = logits.double()
    factor = repetition.double().unsqueeze(1)
    scaled = torch.where(wide > 0, wide / factor, wide * factor)
    wide = scaled.where((token_counts > 0) | prompt_mask.bool(), wide)
    wide = wide - frequency.double().unsqueeze(1) * token_counts
    return wide - presence.double().unsqueeze(1) * (token_counts > 0)


def logprobs(
    logits: torch.Tensor, token_ids: torch.Tensor, num_top: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the tokens' log-probabilities and ranks, and the best's values and ids."""
    wide = logits.double().log_softmax(1)
    chosen = wide.gather(1, token_ids.unsqueeze(1))
    rank = (wide > chosen).sum(1) + 1
    values, order = wide.sort(dim=1, descending=True, stable=True)
    return chosen.squeeze(1), rank, values[:, :num_top], order[:, :num_top]
