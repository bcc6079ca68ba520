"""Executes chunks on the model: tensors in, tokens out. Holds no policy.

What it remembers of a request (token counts for penalties) follows from the request itself.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from services.generator.backend.batch import Batch, build_batch
from services.generator.backend.memory import raising_out_of_memory
from services.generator.backend.sampling.beam_candidates import beam_candidates, num_candidates
from services.generator.backend.sampling.logits_processors import LogitEdits
from services.generator.backend.sampling.logprobs import token_logprobs
from services.generator.backend.sampling.sampler import sample
from services.generator.engine.chunk import Chunk, ChunkResult
from services.generator.engine.draw import Draw
from services.generator.engine.results import Choices, Scored, draws_of, results_of
from services.generator.engine.token_logprobs import Candidate, TokenLogprobs
from services.generator.model.decoder import Decoder, ForwardPass
from services.generator.model.kv_cache import KVCache


@dataclass(frozen=True, slots=True)
class _Prepared:
    """Chunks laid out; their tokens may be unknown as yet."""

    chunks: list[Chunk]
    batch: Batch
    model_pass: ForwardPass

    def serves(self, chunks: Sequence[Chunk]) -> bool:
        """Return whether these very chunks were laid out, and no others."""
        return len(chunks) == len(self.chunks) and all(map(operator.is_, chunks, self.chunks))


class Runner:
    """Owns the model and its KV memory; computing a chunk twice is harmless."""

    def __init__(self, model: Decoder, cache: KVCache) -> None:
        self._model = model
        self._cache = cache
        self._edits = LogitEdits()
        self._prepared: _Prepared | None = None

    @raising_out_of_memory()
    @torch.inference_mode()
    def execute(
        self, chunks: Sequence[Chunk], overlap: Callable[[], Sequence[Chunk]]
    ) -> list[ChunkResult]:
        """Compute the chunks in one pass; return a result for each, in their order.

        A chunk that does not reach its request's last token yields neither tokens nor failure.
        The chunks that `overlap` returns are laid out for the next pass while this one computes.
        """
        prepared = self._prepared
        if prepared is None or not prepared.serves(chunks):
            prepared = self._prepare(chunks)
        self._prepared = None

        def prepare_next() -> None:
            if planned := overlap():
                self._prepared = self._prepare(planned)

        batch = prepared.batch
        logits = self._model.run(batch.token_ids, prepared.model_pass, self._cache, prepare_next)
        num_samples = len(batch.sample_rows)
        choices = self._choose(logits[:num_samples], draws_of(batch.chunks))
        scored = Scored.of(batch.chunks)
        scores = token_logprobs(logits[num_samples:], scored.token_ids, scored.counts)
        return results_of(chunks, batch.chunks, choices, scores)

    def _prepare(self, chunks: Sequence[Chunk]) -> _Prepared:
        batch = build_batch(chunks, self._cache.block_size)
        rows = torch.cat((batch.sample_rows, batch.score_rows))
        model_pass = self._model.prepare(batch.positions, batch.tables, self._cache, rows)
        return _Prepared(list(chunks), batch, model_pass)

    @torch.inference_mode()
    def clear(self, block_ids: Sequence[int]) -> None:
        """Zero the KV memory of these blocks."""
        self._cache.clear(block_ids)

    @torch.inference_mode()
    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy the KV memory of each pair's first block to its second; all are read first."""
        self._cache.copy(pairs)

    def release_memory(self) -> None:
        """Give back what no step holds, after one found too little."""
        self._prepared = None

    def _choose(self, logits: torch.Tensor, draws: Sequence[Draw]) -> Choices:
        """Return what is drawn from rows [S, vocab]."""
        asking = [row for row, draw in enumerate(draws) if draw.params.logprobs is not None]
        # a copy, because the edits change the rows before it is known which token to describe
        raw = logits[asking] if asking else None
        searching = [row for row, draw in enumerate(draws) if draw.request.beams is not None]
        totals = logits[searching].float().logsumexp(dim=1, keepdim=True) if searching else None
        logits = self._edits.apply(logits, draws)
        token_ids = sample(logits, draws)
        described: list[TokenLogprobs] = []
        if raw is not None:
            counts = [draws[row].params.logprobs or 0 for row in asking]
            described = token_logprobs(raw, [token_ids[row] or 0 for row in asking], counts)
        found: list[list[Candidate]] = []
        if totals is not None:
            beams = [draws[row].request for row in searching]
            found = beam_candidates(logits[searching], totals, list(map(num_candidates, beams)))
        return Choices(
            token_ids,
            dict(zip(asking, described, strict=True)),
            dict(zip(searching, found, strict=True)),
        )

    def __repr__(self) -> str:
        return f"Runner({self._cache!r})"
