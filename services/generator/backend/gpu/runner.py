"""Executes chunks on a GPU: copies in, launches and copies out, all without a wait, then one wait.

While the device computes a step, the host plans the next one and launches it behind, on the tokens
that this one will have drawn; so the device goes from step to step without waiting for the host.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch

from services.generator.backend.batch import Batch, build_batch
from services.generator.backend.gpu.decode_graphs import DecodeGraphs
from services.generator.backend.gpu.device import Device
from services.generator.backend.gpu.in_flight import Drawn, Flight
from services.generator.backend.gpu.sampling.token_sampler import TokenChoice, follows_known_tokens
from services.generator.backend.gpu.step_inputs import Inputs, Layout, StepInputs
from services.generator.backend.gpu.triton.elementwise.feed_tokens import feed_tokens
from services.generator.backend.memory import raising_out_of_memory
from services.generator.engine.chunk import Chunk, ChunkResult
from services.generator.engine.draw import Draw
from services.generator.engine.results import Scored, draws_of
from services.generator.engine.token_logprobs import TokenLogprobs
from services.generator.model.decoder import Decoder
from services.generator.model.kv_cache import KVCache

logger = logging.getLogger(__name__)

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
        self._ahead: Flight | None = None

    @raising_out_of_memory()
    @torch.inference_mode()
    def execute(
        self, chunks: Sequence[Chunk], overlap: Callable[[], Sequence[Chunk]]
    ) -> list[ChunkResult]:
        """Compute the chunks; return a result for each, in their order.

        The chunks that `overlap` returns are launched behind them, or at least laid out. Of what is
        under way already, only the chunks that are still asked for count.
        """
        try:
            return self._execute(chunks, overlap)
        except Exception:
            # what was launched has host memory in use that will be used again
            with suppress(RuntimeError):
                self._device.mark()()
            raise

    def _execute(
        self, chunks: Sequence[Chunk], overlap: Callable[[], Sequence[Chunk]]
    ) -> list[ChunkResult]:
        flights = self._under_way(chunks)
        if planned := overlap():
            self._launch_ahead(planned, [flight for flight, _ in flights])
        results = {
            id(chunk): result
            for flight, own in flights
            for chunk, result in zip(own, flight.land(own), strict=True)
        }
        return [results[id(chunk)] for chunk in chunks]

    @torch.inference_mode()
    def clear(self, block_ids: Sequence[int]) -> None:
        """Zero the KV memory of these blocks."""
        self._cache.clear(block_ids)

    @torch.inference_mode()
    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy the KV memory of each pair's first block to its second; all are read first."""
        self._cache.copy(pairs)

    @property
    def has_step_in_flight(self) -> bool:
        """Return whether a step is under way that nobody has asked for yet."""
        return self._ahead is not None

    def release_memory(self) -> None:
        """Give back what no step holds, after one found too little."""
        self._prepared = self._ahead = None
        self._device.release()

    def _under_way(self, chunks: Sequence[Chunk]) -> list[tuple[Flight, list[Chunk]]]:
        """Return what computes the chunks, with those of each; launch what is not yet."""
        ahead, self._ahead = self._ahead, None
        prepared, self._prepared = self._prepared, None
        flights = []
        rest = list(chunks)
        if ahead is not None:
            launched = set(map(id, ahead.batch.chunks))
            own = [chunk for chunk in chunks if id(chunk) in launched]
            rest = [chunk for chunk in chunks if id(chunk) not in launched]
            # a flight without passengers lands by itself: nobody reads it
            flights = [(ahead, own)] if own else []
        if rest:
            if prepared is None or not prepared.serves(rest):
                prepared = self._prepare(rest)
            flights.append((self._launch(prepared), rest))
        return flights

    def _launch_ahead(self, planned: Sequence[Chunk], flights: Sequence[Flight]) -> None:
        """Launch what is planned behind the flights, or lay it out where it cannot follow yet."""
        try:
            prepared = self._prepare(planned)
            if _can_follow(prepared):
                self._ahead = self._launch(prepared, Drawn(flights))
            else:
                self._prepared = prepared
        except Exception:
            # those of this step are not to blame: it is launched again, and told, as its own step
            logger.exception("%d chunks could not be launched ahead", len(planned))

    def _prepare(self, chunks: Sequence[Chunk]) -> _Prepared:
        batch = build_batch(chunks, self._cache.block_size)
        num_decodes, num_padded = len(batch.singles), None
        if self._graphs is not None and num_decodes == len(batch.positions):
            num_padded = self._graphs.padded(num_decodes)
        layout, inputs = self._inputs.lay_out(batch, num_padded)
        return _Prepared(list(chunks), batch, layout, inputs, num_padded is not None)

    def _launch(self, prepared: _Prepared, drawn: Drawn | None = None) -> Flight:
        """Launch a pass; `drawn` has the tokens of those that it follows before they landed."""
        batch = prepared.batch
        draws = draws_of(batch.chunks)
        if drawn is None:
            inputs = self._inputs.send(prepared.layout, prepared.inputs, batch.token_ids)
        else:
            undrawn = batch.undrawn
            sources = {row: drawn.place(request) for row, request in undrawn.items()}
            inputs = self._inputs.send(
                prepared.layout, prepared.inputs, batch.known_token_ids, sources
            )
            if sources:
                feed_tokens(inputs.token_ids, inputs.sources, drawn.tokens)
            draws = [d._replace(num_unknown=d.request.num_lookahead_tokens) for d in draws]
        hidden = self._hidden_states(prepared, inputs)
        self._choice.turn()
        num_samples = len(batch.sample_rows)
        chosen = None
        if draws:
            logits = self._model.logits(hidden.index_select(0, inputs.rows[:num_samples]))
            chosen = self._choice.launch(logits, draws)
        scores = self._launch_scores(hidden, inputs.rows[num_samples:], Scored.of(batch.chunks))
        return Flight(batch, chosen, scores, self._device.mark())

    def _hidden_states(self, prepared: _Prepared, inputs: Inputs) -> torch.Tensor:
        if prepared.is_recorded:
            assert self._graphs is not None, "a batch for no recording. This is a bug."
            return self._graphs.replay(inputs)
        tables = inputs.block_tables(len(prepared.batch.singles))
        model_pass = self._model.prepare(inputs.positions, tables, self._cache, inputs.rows)
        return self._model.hidden_states(inputs.token_ids, model_pass, self._cache)

    def _launch_scores(
        self, hidden: torch.Tensor, rows: torch.Tensor, scored: Scored
    ) -> list[Callable[[], list[TokenLogprobs]]]:
        """Launch in parts, lest a long prompt's logits are all there at once."""
        reads = []
        for first in range(0, len(scored.counts), _SCORED_ROWS):
            part = slice(first, first + _SCORED_ROWS)
            logits = self._model.logits(hidden.index_select(0, rows[part]))
            reads.append(
                self._choice.launch_scores(logits, scored.token_ids[part], scored.counts[part])
            )
        return reads

    def __repr__(self) -> str:
        return f"GpuRunner({self._device!r}, {self._cache!r}, {self._graphs!r})"


def _can_follow(prepared: _Prepared) -> bool:
    """Return whether a pass may be launched before the tokens that it follows are known here."""
    requests = (chunk.request for chunk in prepared.chunks if chunk.samples)
    return all(follows_known_tokens(Draw(request)) for request in requests)
