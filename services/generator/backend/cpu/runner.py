"""Runner of the CPU: one forward pass per step, then sampling. Holds no policy."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from services.generator.backend.batch import Batch, build_batch
from services.generator.backend.cpu.token_sampler import TokenSampler
from services.generator.backend.memory import raising_out_of_memory
from services.generator.backend.sampling.logprobs import token_logprobs
from services.generator.engine.chunk import Chunk, ChunkResult
from services.generator.engine.results import Scored, draws_of, results_of
from services.generator.model.decoder import Decoder, ForwardPass
from services.generator.model.kv_cache import KVCache


class _PreparedStep(NamedTuple):
    """A batch laid out for its forward pass; its tokens may be unknown as yet."""

    batch: Batch
    forward_pass: ForwardPass


class CpuRunner:
    """Owns the model and its KV memory; computing a chunk twice is harmless."""

    def __init__(self, model: Decoder, cache: KVCache) -> None:
        self._model = model
        self._cache = cache
        self._sampler = TokenSampler()
        self._prepared: _PreparedStep | None = None

    @raising_out_of_memory()
    @torch.inference_mode()
    def execute(
        self, chunks: Sequence[Chunk], overlap: Callable[[], Sequence[Chunk]]
    ) -> list[ChunkResult]:
        """Compute the chunks in one pass; return a result for each, in their order.

        A chunk that does not reach its request's last token yields neither tokens nor failure.
        The chunks that `overlap` returns are laid out for the next pass while this one computes.
        """
        prepared, self._prepared = self._prepared, None
        if prepared is None or not prepared.batch.is_of(chunks):
            prepared = self._prepare(chunks)

        def prepare_next() -> None:
            if planned := overlap():
                self._prepared = self._prepare(planned)

        batch = prepared.batch
        logits = self._model.run(batch.token_ids, prepared.forward_pass, self._cache, prepare_next)
        num_samples = len(batch.sample_rows)
        choices = self._sampler.sample(logits[:num_samples], draws_of(batch.chunks))
        scored = Scored.of(batch.chunks)
        scores = token_logprobs(logits[num_samples:], scored.token_ids, scored.counts)
        return results_of(chunks, batch.chunks, choices, scores)

    def _prepare(self, chunks: Sequence[Chunk]) -> _PreparedStep:
        batch = build_batch(chunks, self._cache.block_size)
        rows = torch.cat((batch.sample_rows, batch.score_rows))
        forward_pass = self._model.prepare(batch.positions, batch.tables, self._cache, rows)
        return _PreparedStep(batch, forward_pass)

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

    def __repr__(self) -> str:
        return f"CpuRunner({self._cache!r})"
