"""Executes chunks on a GPU: one copy in, launches without a wait, one copy out and one wait.

While the device computes a step, the host plans the next one and lays it out.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from services.generator.engine.batch import Batch, build_batch
from services.generator.engine.chunk import Chunk, ChunkResult
from services.generator.engine.results import Choices, Scored, draws_of, results_of
from services.generator.gpu.decode_graphs import DecodeGraphs
from services.generator.gpu.device import Device
from services.generator.gpu.step_inputs import Inputs, Layout, StepInputs
from services.generator.gpu.token_choice import TokenChoice
from services.generator.model import Decoder, KVCache

# rows of prompts whose logits are there at once
_SCORED_ROWS = 256


@dataclass(frozen=True, slots=True)
class _Prepared:
    """Chunks laid out in host memory; their tokens may be unknown as yet."""

    chunks: list[Chunk]
    batch: Batch
    layout: Layout
    inputs: Inputs
    is_recorded: bool

    def serves(self, chunks: Sequence[Chunk]) -> bool:
        """Return whether these very chunks were laid out, and no others."""
        return len(chunks) == len(self.chunks) and all(map(operator.is_, chunks, self.chunks))


class GpuRunner:
    """Owns the model and its KV memory on a device; computing a chunk twice is harmless."""

    def __init__(
        self,
        model: Decoder,
        cache: KVCache,
        device: Device,
        inputs: StepInputs,
        choice: TokenChoice,
        graphs: DecodeGraphs | None = None,
    ) -> None:
        """Without `graphs` all steps are launched one by one."""
        self._model = model
        self._cache = cache
        self._device = device
        self._inputs = inputs
        self._choice = choice
        self._graphs = graphs
        self._prepared: _Prepared | None = None

    @torch.inference_mode()
    def execute(
        self, chunks: Sequence[Chunk], meanwhile: Callable[[], Sequence[Chunk]]
    ) -> list[ChunkResult]:
        """Compute the chunks in one pass; return a result for each, in their order.

        The chunks that `meanwhile` tells are laid out for the next pass while this one computes.
        """
        prepared, self._prepared = self._prepared, None
        if prepared is None or not prepared.serves(chunks):
            prepared = self._prepare(chunks)
        batch = prepared.batch
        inputs = self._inputs.send(prepared.layout, prepared.inputs, batch.token_ids)
        hidden = self._hidden_states(prepared, inputs)
        num_samples = len(batch.sample_rows)
        draws = draws_of(batch.chunks)
        chosen = None
        if draws:
            rows = inputs.rows[:num_samples]
            logits = self._model.logits(hidden.index_select(0, rows))
            chosen = self._choice.launch(logits, draws)
        scored = Scored.of(batch.chunks)
        scores = [
            self._choice.launch_scores(
                self._model.logits(hidden.index_select(0, inputs.rows[num_samples:][part])),
                scored.token_ids[part],
                scored.counts[part],
            )
            for part in _parts(len(scored.counts))
        ]
        wait = self._device.mark()
        if foreseen := meanwhile():
            self._prepared = self._prepare(foreseen)
        wait()
        choices = Choices((), {}, {})
        if chosen is not None:
            choices = Choices(chosen.token_ids(), chosen.logprobs(), chosen.candidates())
        told = [score for read in scores for score in read()]
        return results_of(chunks, batch.chunks, choices, told)

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
        self._device.release()

    def _prepare(self, chunks: Sequence[Chunk]) -> _Prepared:
        batch = build_batch(chunks, self._cache.block_size)
        num_decodes, num_padded = len(batch.singles), None
        if self._graphs is not None and num_decodes == len(batch.positions):
            num_padded = self._graphs.padded(num_decodes)
        layout, inputs = self._inputs.lay_out(batch, num_padded)
        return _Prepared(list(chunks), batch, layout, inputs, num_padded is not None)

    def _hidden_states(self, prepared: _Prepared, inputs: Inputs) -> torch.Tensor:
        if prepared.is_recorded:
            assert self._graphs is not None, "a batch for no recording. This is a bug."
            return self._graphs.replay(inputs)
        pages = inputs.pages(len(prepared.batch.singles))
        model_pass = self._model.prepare(inputs.positions, pages, self._cache, inputs.rows)
        return self._model.hidden_states(inputs.token_ids, model_pass, self._cache)

    def __repr__(self) -> str:
        return f"GpuRunner({self._device!r}, {self._cache!r}, {self._graphs!r})"


def _parts(count: int) -> list[slice]:
    return [slice(first, first + _SCORED_ROWS) for first in range(0, count, _SCORED_ROWS)]
