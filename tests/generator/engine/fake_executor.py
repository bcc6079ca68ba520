"""An executor without a model, so that policy is tested in microseconds."""

import math
import random
import zlib
from collections.abc import Callable, Sequence

from services.generator.engine.beam_search import BeamSearch, Candidate, Row
from services.generator.engine.chunk import Chunk, ChunkResult
from services.generator.engine.request import Request
from services.generator.engine.sampling_params import SamplingParams
from services.generator.engine.token_logprobs import TokenLogprobs

VOCAB_SIZE = 50


class FakeExecutor:
    """Draws each token as a function of all tokens before it, as a greedy model would.

    It also remembers what was written to which block slot, and so proves that the blocks a chunk
    reads hold exactly its request's tokens.
    """

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.written: dict[tuple[int, int], tuple[int, int]] = {}
        self.cleared: list[int] = []
        self.copied: list[tuple[int, int]] = []
        self.fails: Callable[[Chunk], bool] = lambda chunk: False
        self.raises: Callable[[Chunk], bool] = lambda chunk: False

    def execute(self, chunks: Sequence[Chunk]) -> list[ChunkResult]:
        if any(self.raises(chunk) for chunk in chunks):
            raise RuntimeError("the fake executor was told to raise")
        for chunk in chunks:
            self._write(chunk)
        return [self._result(chunk) for chunk in chunks]

    def clear(self, block_ids: Sequence[int]) -> None:
        self.cleared += block_ids

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        assert len({target for _, target in pairs}) == len(pairs), "a block is written twice"
        read = {
            (target, offset): self.written[source, offset]
            for source, target in pairs
            for offset in range(self.block_size)
            if (source, offset) in self.written
        }
        self.copied += pairs
        self.written |= read

    def _write(self, chunk: Chunk) -> None:
        assert chunk.num_tokens > 0
        for position in range(chunk.start, chunk.end):
            token_id = chunk.request.token_ids[position]
            self.written[self._slot(chunk.request, position)] = (position, token_id)

    def _result(self, chunk: Chunk) -> ChunkResult:
        request = chunk.request
        for position in range(chunk.end):
            expected = (position, request.token_ids[position])
            assert self.written[self._slot(request, position)] == expected, f"{request!r}"
        if self.fails(chunk):
            return ChunkResult(failed=True)
        scores = [TokenLogprobs(request.token_ids[i + 1], -1.0, 1) for i in chunk.scored]
        if chunk.samples and request.beams is not None:
            return ChunkResult(candidates=candidates(request.token_ids))
        drawn = [ChunkResult(next_token(r.token_ids, r.branch)) for r in chunk.drawing]
        own = drawn[0] if drawn else ChunkResult()
        return own._replace(prompt_logprobs=scores, forks=drawn[1:])

    def _slot(self, request: Request, position: int) -> tuple[int, int]:
        return request.block_ids[position // self.block_size], position % self.block_size


def next_token(token_ids: Sequence[int], branch: int = 0) -> int:
    """Return the token that the fake executor draws after these for a request's sequence."""
    return zlib.crc32(bytes(token_ids), branch) % VOCAB_SIZE


def continuation(prompt: Sequence[int], count: int, branch: int = 0) -> list[int]:
    """Return the `count` tokens that the fake executor draws after a prompt."""
    token_ids = list(prompt)
    for _ in range(count):
        token_ids.append(next_token(token_ids, branch))
    return token_ids[len(prompt) :]


def best_beams(
    prompt: Sequence[int], params: SamplingParams, stops: Sequence[int]
) -> list[list[int]]:
    """Return what a beam search over the fake executor's model finds, with every beam a list."""
    search = BeamSearch(
        params.beam_width, params.length_penalty, params.max_tokens, frozenset(stops)
    )
    beams: list[list[int]] = [[]]
    while beams:
        rows = [Row(beam, candidates([*prompt, *beam])) for beam in beams]
        beams = [[*beams[parent], token_id] for parent, token_id in search.advance(rows)]
    return [list(hypothesis.token_ids) for hypothesis in search.finished[: params.n]]


def candidates(token_ids: Sequence[int]) -> list[Candidate]:
    """Return the likeliest tokens after these, as the fake executor sees it."""
    rng = random.Random(zlib.crc32(bytes(token_ids)))
    token_ids = rng.sample(range(VOCAB_SIZE), 8)
    shares = sorted((rng.random() for _ in token_ids), reverse=True)
    return [Candidate(i, math.log(share / 8)) for i, share in zip(token_ids, shares, strict=True)]
