"""Executes chunks on the mock model and takes the time that was chosen for it."""

import time
from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

from services.generator.backend.mock.config import MockConfig
from services.generator.backend.mock.model import MockModel, digest
from services.generator.engine.chunk import Chunk, ChunkResult
from services.generator.engine.draw import Draw
from services.generator.engine.executor import Overlap
from services.generator.engine.request import Request
from services.generator.engine.results import Choices, draws_of, results_of
from services.generator.engine.token_logprobs import Candidate, TokenLogprobs


class MockExecutor:
    """Keeps no keys and values, so the content of blocks needs neither clearing nor copying."""

    def __init__(
        self, model: MockModel, config: MockConfig, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._model = model
        self._config = config
        self._sleep = sleep
        # of the tokens that a request had last, and how many they were
        self._digests: WeakKeyDictionary[Request, tuple[int, int]] = WeakKeyDictionary()

    def execute(self, chunks: Sequence[Chunk], overlap: Overlap) -> list[ChunkResult]:
        """Return one result per chunk, in order, after the step's time."""
        overlap()
        choices = self._choose(draws_of(chunks))
        scores = [score for chunk in chunks if chunk.scored for score in self._scores(chunk)]
        step_s = self.step_s(chunks)
        if step_s > 0.0:
            self._sleep(step_s)
        return results_of(chunks, chunks, choices, scores)

    def step_s(self, chunks: Sequence[Chunk]) -> float:
        """Return what a step takes: its share of each prompt's prefill, and one decode's time."""
        prefill_s = sum(
            self._config.first_token_s * chunk.num_known / chunk.request.num_prompt_tokens
            for chunk in chunks
            if not _is_decode(chunk)
        )
        return prefill_s + (self._config.token_s if any(map(_is_decode, chunks)) else 0.0)

    def clear(self, block_ids: Sequence[int]) -> None:
        """Return at once: a block has no content."""

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Return at once: a block has no content."""

    def release_memory(self) -> None:
        """Return at once: no memory is held."""

    def _choose(self, draws: Sequence[Draw]) -> Choices:
        contexts = [digest(draw.drafts, self._known(draw.request)) for draw in draws]
        token_ids = [self._next(*each) for each in zip(contexts, draws, strict=True)]
        logprobs, candidates = {}, {}
        for row, (context, draw) in enumerate(zip(contexts, draws, strict=True)):
            if draw.params.logprobs is not None:
                logprobs[row] = self._model.logprobs(context, token_ids[row], draw.params.logprobs)
            if draw.request.beams is not None:
                candidates[row] = self._candidates(context, draw)
        return Choices(token_ids, logprobs, candidates)

    def _next(self, context: int, draw: Draw) -> int:
        if self._is_over(draw):
            return min(draw.request.stop_token_ids)
        return self._model.draw(context, draw)

    def _candidates(self, context: int, draw: Draw) -> list[Candidate]:
        if self._is_over(draw):
            return [Candidate(min(draw.request.stop_token_ids), 0.0)]
        return self._model.candidates(context, draw.request)

    def _is_over(self, draw: Draw) -> bool:
        """Return whether the output is as long as was chosen, and may stop."""
        limit = self._config.output_tokens
        is_long = 0 < limit <= draw.output_index
        return is_long and bool(draw.request.stop_token_ids) and not draw.holds_back_stops

    def _known(self, request: Request) -> int:
        """Return the digest of the request's tokens, by those that are new since the last step."""
        token_ids = request.token_ids
        # a beam's tokens become those of another
        known, num_known = (0, 0) if request.beams else self._digests.get(request, (0, 0))
        context = digest(token_ids[num_known:], known)
        self._digests[request] = context, len(token_ids)
        return context

    def _scores(self, chunk: Chunk) -> list[TokenLogprobs]:
        """Return how likely each prompt token after a scored position was."""
        token_ids, count = chunk.request.token_ids, chunk.request.params.prompt_logprobs or 0
        context = digest(token_ids[: chunk.scored.start])
        scores = []
        for position in chunk.scored:
            context = digest(token_ids[position : position + 1], context)
            scores.append(self._model.logprobs(context, token_ids[position + 1], count))
        return scores

    def __repr__(self) -> str:
        return f"MockExecutor({self._config!r})"


def _is_decode(chunk: Chunk) -> bool:
    """Whether the chunk computes a generated token, and not tokens that were known at once."""
    return chunk.num_known == 1 and chunk.start >= chunk.request.num_prompt_tokens
