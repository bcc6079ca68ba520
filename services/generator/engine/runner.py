"""Executes chunks on the model: tensors in, tokens out. Holds no policy and no request state."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from services.generator.engine.batch import build_batch
from services.generator.engine.chunk import Chunk, ChunkResult
from services.generator.engine.sampler import sample
from services.generator.model import Decoder, KVCache


class Runner:
    """Owns the model and its KV memory; computing a chunk twice is harmless."""

    def __init__(self, model: Decoder, cache: KVCache) -> None:
        self._model = model
        self._cache = cache

    @torch.inference_mode()
    def execute(self, chunks: Sequence[Chunk]) -> list[ChunkResult]:
        """Compute the chunks in one pass; return a result for each, in their order.

        A chunk that does not reach its request's last token yields neither token nor failure.
        """
        batch = build_batch(chunks, self._cache.block_size)
        logits = self._model.forward(
            batch.token_ids, batch.positions, batch.pages, self._cache, batch.sample_rows
        )
        sampled = [chunk for chunk in batch.chunks if chunk.samples]
        token_ids = sample(logits, [chunk.request for chunk in sampled])
        by_request = {
            id(chunk.request): ChunkResult(token_id, failed=token_id is None)
            for chunk, token_id in zip(sampled, token_ids, strict=True)
        }
        return [by_request.get(id(chunk.request), ChunkResult()) for chunk in chunks]

    @torch.inference_mode()
    def clear(self, block_ids: Sequence[int]) -> None:
        """Zero the KV memory of these blocks."""
        self._cache.clear(block_ids)

    def __repr__(self) -> str:
        return f"Runner({self._cache!r})"
