"""What was chosen in a step's rows, as the results of its chunks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from services.generator.engine.beam_search import Candidate
from services.generator.engine.chunk import Chunk, ChunkResult
from services.generator.engine.draw import Draw, kept_tokens
from services.generator.engine.token_logprobs import TokenLogprobs


class Choices(NamedTuple):
    """The drawn tokens, None where a row is not finite; what was asked beside them, by row."""

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
    def of(cls, chunks: Sequence[Chunk]) -> Scored:
        """Return those of a step's scored rows, in their order."""
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
    described = iter(scores)
    told = {id(c.request): [next(described) for _ in c.scored] for c in in_row_order}
    return [
        _with_scores(drawn.get(id(c.request), ChunkResult()), told[id(c.request)]) for c in chunks
    ]


def _drawn(chunks: Sequence[Chunk], choices: Choices) -> dict[int, ChunkResult]:
    """Return what was drawn, by the id() of the chunks' requests."""
    results: dict[int, ChunkResult] = {}
    rows = iter(range(len(choices.token_ids)))
    for chunk in chunks:
        if not chunk.samples:
            continue
        if chunk.request.beams is not None:
            row = next(rows)
            failed = choices.token_ids[row] is None
            results[id(chunk.request)] = ChunkResult(
                failed=failed, candidates=choices.candidates[row]
            )
            continue
        told = []
        for drafts in (chunk.drafts, *(() for _ in chunk.forks)):
            own = list(islice(rows, len(drafts) + 1))
            kept = kept_tokens(drafts, [choices.token_ids[row] for row in own])
            asked = [row for row in own[: len(kept)] if row in choices.logprobs]
            logprobs = [choices.logprobs[row] for row in asked]
            told.append(ChunkResult(kept, failed=not kept, logprobs=logprobs))
        results[id(chunk.request)] = told[0]._replace(forks=told[1:])
    return results


def _with_scores(drawn: ChunkResult, scores: Sequence[TokenLogprobs]) -> ChunkResult:
    """Put both halves together; a prompt whose logits are not finite fails."""
    if not all(math.isfinite(score.logprob) for score in scores):
        return ChunkResult(failed=True)
    return drawn._replace(prompt_logprobs=scores)
