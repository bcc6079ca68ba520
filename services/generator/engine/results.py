"""Results of a step's chunks, from the tokens that were sampled in its rows."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from services.generator.engine.chunk import Chunk, ChunkResult
from services.generator.engine.draw import Draw, kept_tokens
from services.generator.engine.request import Request
from services.generator.engine.token_logprobs import Candidate, TokenLogprobs


class Choices(NamedTuple):
    """The sampled tokens, None where a row is not finite; logprobs and candidates by row."""

    token_ids: Sequence[int | None]
    logprobs: Mapping[int, TokenLogprobs]
    candidates: Mapping[int, Sequence[Candidate]]


def draws_of(chunks: Sequence[Chunk]) -> list[Draw]:
    """Return what is drawn from a step's sampled rows, in their order."""
    return [draw for chunk in chunks if chunk.samples for draw in chunk.draws]


class Scored(NamedTuple):
    """The prompt tokens after the scored positions, and how many alternatives each wants."""

    token_ids: list[int]
    counts: list[int]

    @classmethod
    def of(cls, chunks: Sequence[Chunk]) -> "Scored":
        """Collect those of a step's scored rows, in their order."""
        scoring = [chunk for chunk in chunks if chunk.scored]
        return cls(
            [c.request.token_ids[position + 1] for c in scoring for position in c.scored],
            [c.request.params.prompt_logprobs or 0 for c in scoring for _ in c.scored],
        )


def results_of(
    chunks: Sequence[Chunk],
    in_row_order: Sequence[Chunk],
    choices: Choices,
    scores: Sequence[TokenLogprobs],
) -> list[ChunkResult]:
    """Return a result per chunk, in the order of `chunks`.

    A chunk that does not reach its request's last token yields neither tokens nor failure.
    """
    drawn = _drawn(in_row_order, choices)
    nothing = ChunkResult()
    if not scores:
        return [drawn.get(chunk.request, nothing) for chunk in chunks]
    remaining = iter(scores)
    scored = {c.request: [next(remaining) for _ in c.scored] for c in in_row_order}
    return [_with_scores(drawn.get(c.request, nothing), scored[c.request]) for c in chunks]


def _drawn(chunks: Sequence[Chunk], choices: Choices) -> dict[Request, ChunkResult]:
    """Return what was drawn for each request that draws."""
    results: dict[Request, ChunkResult] = {}
    row = 0
    for chunk in chunks:
        if not chunk.samples:
            continue
        request, forks = chunk.request, chunk.forks
        if request.beams is not None:
            failed = choices.token_ids[row] is None
            results[request] = ChunkResult(failed=failed, candidates=choices.candidates[row])
            row += 1
            continue
        end = row + len(chunk.drafts) + 1
        result = _sequence_result(chunk.drafts, row, end, choices)
        if forks:
            rows = range(end, end + len(forks))
            own_results = [_sequence_result((), row, row + 1, choices) for row in rows]
            result = result._replace(forks=own_results)
        results[request] = result
        row = end + len(forks)
    return results


def _sequence_result(drafts: Sequence[int], first: int, end: int, choices: Choices) -> ChunkResult:
    """Return what one sequence keeps of what was drawn in its rows."""
    kept = kept_tokens(drafts, choices.token_ids[first:end])
    if not kept:
        return ChunkResult(failed=True)
    if not choices.logprobs:
        return ChunkResult(kept)
    rows = range(first, first + len(kept))
    return ChunkResult(kept, logprobs=[choices.logprobs[r] for r in rows if r in choices.logprobs])


def _with_scores(drawn: ChunkResult, scores: Sequence[TokenLogprobs]) -> ChunkResult:
    """Put both halves together; a prompt whose logits are not finite fails."""
    if not all(math.isfinite(score.logprob) for score in scores):
        return ChunkResult(failed=True)
    return drawn._replace(prompt_logprobs=scores)
