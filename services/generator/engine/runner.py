"""Executes chunks on the model: tensors in, tokens out. Holds no policy.

What it remembers of a request (token counts for penalties) follows from the request itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from services.generator.engine.batch import build_batch
from services.generator.engine.beam_candidates import beam_candidates
from services.generator.engine.chunk import Chunk, ChunkResult
from services.generator.engine.logit_edits import LogitEdits
from services.generator.engine.logprobs import token_logprobs
from services.generator.engine.request import Request
from services.generator.engine.sampler import sample
from services.generator.engine.token_logprobs import TokenLogprobs
from services.generator.model import Decoder, KVCache


class Runner:
    """Owns the model and its KV memory; computing a chunk twice is harmless."""

    def __init__(self, model: Decoder, cache: KVCache) -> None:
        self._model = model
        self._cache = cache
        self._edits = LogitEdits()

    @torch.inference_mode()
    def execute(self, chunks: Sequence[Chunk]) -> list[ChunkResult]:
        """Compute the chunks in one pass; return a result for each, in their order.

        A chunk that does not reach its request's last token yields neither token nor failure.
        """
        batch = build_batch(chunks, self._cache.block_size)
        rows = torch.cat((batch.sample_rows, batch.score_rows))
        logits = self._model.forward(
            batch.token_ids, batch.positions, batch.pages, self._cache, rows
        )
        num_samples = len(batch.sample_rows)
        sampled = [request for chunk in batch.chunks for request in chunk.drawing]
        scores = _prompt_scores(logits[num_samples:], batch.chunks)
        drawn = self._draw(logits[:num_samples], sampled)
        by_request = dict(zip(map(id, sampled), drawn, strict=True))
        return [
            _result([by_request[id(r)] for r in c.drawing], scores.get(id(c.request), ()))
            for c in chunks
        ]

    @torch.inference_mode()
    def clear(self, block_ids: Sequence[int]) -> None:
        """Zero the KV memory of these blocks."""
        self._cache.clear(block_ids)

    @torch.inference_mode()
    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy the KV memory of each pair's first block to its second; all are read first."""
        self._cache.copy(pairs)

    def _draw(self, logits: torch.Tensor, requests: Sequence[Request]) -> list[ChunkResult]:
        """Return a token per row of `logits` [S, vocab], described where its request asks."""
        asking = [row for row, r in enumerate(requests) if r.params.logprobs is not None]
        # a copy, because the edits change the rows before it is known which token to describe
        raw = logits[asking] if asking else None
        searching = [row for row, r in enumerate(requests) if r.beams is not None]
        totals = logits[searching].float().logsumexp(dim=1, keepdim=True) if searching else None
        logits = self._edits.apply(logits, requests)
        token_ids = sample(logits, requests)
        results = [ChunkResult(token_id, failed=token_id is None) for token_id in token_ids]
        if raw is not None:
            counts = [requests[row].params.logprobs or 0 for row in asking]
            described = token_logprobs(raw, [token_ids[row] or 0 for row in asking], counts)
            for row, logprobs in zip(asking, described, strict=True):
                if not results[row].failed:
                    results[row] = results[row]._replace(logprobs=logprobs)
        if totals is not None:
            beams = [requests[row] for row in searching]
            counts = [beam.params.beam_width + len(beam.stop_token_ids) for beam in beams]
            candidates = beam_candidates(logits[searching], totals, counts)
            for row, found in zip(searching, candidates, strict=True):
                results[row] = ChunkResult(failed=results[row].failed, candidates=found)
        return results

    def __repr__(self) -> str:
        return f"Runner({self._cache!r})"


def _prompt_scores(
    logits: torch.Tensor, chunks: Sequence[Chunk]
) -> dict[int, Sequence[TokenLogprobs]]:
    """Describe the prompt tokens after the scored positions, by the id() of their request."""
    if not len(logits):
        return {}
    scoring = [chunk for chunk in chunks if chunk.scored]
    token_ids = [c.request.token_ids[position + 1] for c in scoring for position in c.scored]
    counts = [c.request.params.prompt_logprobs or 0 for c in scoring for _ in c.scored]
    described = iter(token_logprobs(logits, token_ids, counts))
    return {id(c.request): [next(described) for _ in c.scored] for c in scoring}


def _result(drawn: Sequence[ChunkResult], scores: Sequence[TokenLogprobs]) -> ChunkResult:
    """Put together what was drawn from the last row and the prompt's scores.

    A prompt whose logits are not finite fails.
    """
    if not all(math.isfinite(score.logprob) for score in scores):
        return ChunkResult(failed=True)
    own = drawn[0] if drawn else ChunkResult()
    return own._replace(prompt_logprobs=scores, forks=drawn[1:])
