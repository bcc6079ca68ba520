"""Runner of a GPU with overlap scheduling: copies in, launches, copies out, then one wait.

While the device computes a step, the host plans the next one and launches it behind, on the tokens
that this one will have sampled; the device goes from step to step without waiting for the host.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch

from services.generator.backend.batch import Batch, build_batch
from services.generator.backend.gpu.decode_graphs import DecodeGraphs
from services.generator.backend.gpu.device import Device
from services.generator.backend.gpu.in_flight import PendingTokens, StepInFlight
from services.generator.backend.gpu.sampling.token_sampler import TokenSampler, follows_known_tokens
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
class _PreparedStep:
    """A batch laid out in host memory; its tokens may be unknown as yet."""

    batch: Batch
    layout: Layout
    inputs: Inputs
    is_recorded: bool  # replayed from a CUDA graph


class GpuRunner:
    """Owns the model and its KV memory on a device; computing a chunk twice is harmless."""

    def __init__(
        self,
        model: Decoder,
        cache: KVCache,
        device: Device,
        inputs: StepInputs,
        sampler: TokenSampler,
        graphs: DecodeGraphs | None = None,
    ) -> None:
        """Without `graphs` all steps are launched kernel by kernel."""
        self._model = model
        self._cache = cache
        self._device = device
        self._inputs = inputs
        self._sampler = sampler
        self._graphs = graphs
        self._prepared: _PreparedStep | None = None
        self._ahead: StepInFlight | None = None

    @raising_out_of_memory()
    @torch.inference_mode()
    def execute(
        self, chunks: Sequence[Chunk], overlap: Callable[[], Sequence[Chunk]]
    ) -> list[ChunkResult]:
        """Compute the chunks; return a result for each, in their order.

        The chunks that `overlap` returns are launched behind them, or at least laid out. Of a step
        in flight, only the chunks that are still asked for count.
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
        steps = self._steps_in_flight(chunks)
        if planned := overlap():
            self._launch_ahead(planned, [step for step, _ in steps])
        # by identity: a hash would go through every field of a chunk
        results = {
            id(chunk): result
            for step, own in steps
            for chunk, result in zip(own, step.collect(own), strict=True)
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
        """Return whether a step was launched that is not asked for yet."""
        return self._ahead is not None

    def release_memory(self) -> None:
        """Give back what no step holds, after one found too little."""
        self._prepared = self._ahead = None
        self._device.release()

    def _steps_in_flight(self, chunks: Sequence[Chunk]) -> list[tuple[StepInFlight, list[Chunk]]]:
        """Return the steps that compute the chunks, with those of each; launch what is not yet."""
        ahead, self._ahead = self._ahead, None
        prepared, self._prepared = self._prepared, None
        steps = []
        rest = list(chunks)
        if ahead is not None:
            launched = set(map(id, ahead.batch.chunks))
            own = [chunk for chunk in chunks if id(chunk) in launched]
            rest = [chunk for chunk in chunks if id(chunk) not in launched]
            # a step whose requests all ended is dropped unread
            steps = [(ahead, own)] if own else []
        if rest:
            if prepared is None or not prepared.batch.is_of(rest):
                prepared = self._prepare(rest)
            steps.append((self._launch(prepared), rest))
        return steps

    def _launch_ahead(self, planned: Sequence[Chunk], steps: Sequence[StepInFlight]) -> None:
        """Launch what is planned behind the steps, or lay it out where it cannot follow yet."""
        try:
            prepared = self._prepare(planned)
            if _can_follow(prepared):
                self._ahead = self._launch(prepared, PendingTokens(steps))
            else:
                self._prepared = prepared
        except Exception:
            # the step in flight is not to blame: the planned one is launched again as its own step
            logger.exception("%d chunks could not be launched ahead", len(planned))

    def _prepare(self, chunks: Sequence[Chunk]) -> _PreparedStep:
        batch = build_batch(chunks, self._cache.block_size)
        num_decodes, num_padded = len(batch.singles), None
        if self._graphs is not None and num_decodes == len(batch.positions):
            num_padded = self._graphs.padded(num_decodes)
        layout, inputs = self._inputs.lay_out(batch, num_padded)
        return _PreparedStep(batch, layout, inputs, num_padded is not None)

    def _launch(
        self, prepared: _PreparedStep, pending: PendingTokens | None = None
    ) -> StepInFlight:
        """Launch a step; `pending` has the tokens of the steps in flight that it follows."""
        batch = prepared.batch
        draws = draws_of(batch.chunks)
        if pending is None:
            inputs = self._inputs.send(prepared.layout, prepared.inputs, batch.token_ids)
        else:
            sources = {row: pending.index(request) for row, request in batch.undrawn.items()}
            inputs = self._inputs.send(
                prepared.layout, prepared.inputs, batch.known_token_ids, sources
            )
            if sources:
                feed_tokens(inputs.token_ids, inputs.sources, pending.tokens)
            draws = [d._replace(num_unknown=d.request.num_lookahead_tokens) for d in draws]
        hidden = self._hidden_states(prepared, inputs)
        self._sampler.turn()
        num_samples = len(batch.sample_rows)
        sampled = None
        if draws:
            logits = self._model.logits(hidden.index_select(0, inputs.rows[:num_samples]))
            sampled = self._sampler.launch(logits, draws)
        scores = self._launch_scores(hidden, inputs.rows[num_samples:], Scored.of(batch.chunks))
        return StepInFlight(batch, sampled, scores, self._device.mark())

    def _hidden_states(self, prepared: _PreparedStep, inputs: Inputs) -> torch.Tensor:
        if prepared.is_recorded:
            assert self._graphs is not None, "a padded batch without CUDA graphs. This is a bug."
            return self._graphs.replay(inputs)
        tables = inputs.block_tables(len(prepared.batch.singles))
        forward_pass = self._model.prepare(inputs.positions, tables, self._cache, inputs.rows)
        return self._model.hidden_states(inputs.token_ids, forward_pass, self._cache)

    def _launch_scores(
        self, hidden: torch.Tensor, rows: torch.Tensor, scored: Scored
    ) -> list[Callable[[], list[TokenLogprobs]]]:
        """Launch in parts, so that a long prompt's logits are never all in memory."""
        reads = []
        for first in range(0, len(scored.counts), _SCORED_ROWS):
            part = slice(first, first + _SCORED_ROWS)
            logits = self._model.logits(hidden.index_select(0, rows[part]))
            reads.append(
                self._sampler.launch_scores(logits, scored.token_ids[part], scored.counts[part])
            )
        return reads

    def __repr__(self) -> str:
        return f"GpuRunner({self._device!r}, {self._cache!r}, {self._graphs!r})"


def _can_follow(prepared: _PreparedStep) -> bool:
    """Return whether a step may be launched before the tokens that it follows are known here."""
    requests = (chunk.request for chunk in prepared.batch.chunks if chunk.samples)
    return all(follows_known_tokens(Draw(request)) for request in requests)
