"""An executor without a model, so that policy is tested in microseconds."""

import math
import random
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from services.generator.engine.chunk import Chunk, ChunkResult
from services.generator.engine.draw import kept_tokens
from services.generator.engine.request import Request
from services.generator.engine.sampling_params import SamplingParams
from services.generator.engine.sequences.beam_search import BeamSearch, Row
from services.generator.engine.token_logprobs import Candidate, TokenLogprobs

VOCAB_SIZE = 50


class FakeExecutor:
    """Draws each token as a function of all tokens before it, as a greedy model would.

    It also remembers what was written to which block slot, and so proves that the blocks a chunk
    reads hold exactly its request's tokens. One that `launches_ahead` computes what is planned at
    once, on the tokens just drawn, as a runner does that need not wait for results to be known.
    """

    def __init__(self, block_size: int, next_token: Callable[[Sequence[int]], int] | None = None):
        self.block_size = block_size
        self._next_token = next_token or hashed_token
        self.written: dict[tuple[int, int], tuple[int, int]] = {}
        self.cleared: list[int] = []
        self.copied: list[tuple[int, int]] = []
        self.fails: Callable[[Chunk], bool] = lambda chunk: False
        self.raises: Callable[[Chunk], bool] = lambda chunk: False
        self.launches_ahead = False
        self._ahead: dict[Chunk, ChunkResult] = {}

    def execute(
        self, chunks: Sequence[Chunk], overlap: Callable[[], Any] = lambda: ()
    ) -> list[ChunkResult]:
        ahead, self._ahead = self._ahead, {}
        if any(self.raises(chunk) for chunk in chunks):
            raise RuntimeError("the fake executor raises")
        for chunk in chunks:
            if chunk not in ahead:
                self._write(chunk)
        results = [ahead[chunk] if chunk in ahead else self._result(chunk) for chunk in chunks]
        planned = overlap() or ()
        if self.launches_ahead:
            drawn = {c.request: r.token_ids for c, r in zip(chunks, results, strict=True)}
            self._ahead = {c: self._launch_ahead(c, drawn) for c in planned}
        return results

    def _launch_ahead(self, chunk: Chunk, drawn: dict[Request, tuple[int, ...]]) -> ChunkResult:
        """Compute a chunk as if its request had what was just drawn for it."""
        request = chunk.request
        known = list(request.token_ids)
        # a request whose token failed is not asked for again
        request.token_ids += (drawn.get(request) or (0,))[: chunk.end - len(known)]
        planned, request.num_lookahead_tokens = request.num_lookahead_tokens, 0
        self._write(chunk)
        result = self._result(chunk)
        request.token_ids[:] = known
        request.num_lookahead_tokens = planned
        return result

    def clear(self, block_ids: Sequence[int]) -> None:
        self.cleared += block_ids

    def release_memory(self) -> None:
        """Nothing is held."""

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
        for position, token_id in enumerate(chunk.token_ids, chunk.start):
            self.written[self._slot(chunk.request, position)] = (position, token_id)

    def _result(self, chunk: Chunk) -> ChunkResult:
        request = chunk.request
        for expected in enumerate([*request.token_ids[: chunk.start], *chunk.token_ids]):
            assert self.written[self._slot(request, expected[0])] == expected, f"{request!r}"
        if self.fails(chunk):
            return ChunkResult(failed=True)
        scores = [TokenLogprobs(request.token_ids[i + 1], -1.0, 1) for i in chunk.scored]
        if chunk.samples and request.beams is not None:
            return ChunkResult(candidates=candidates(request.token_ids))
        drawn = [
            drawn_token(self._next_token, [*r.token_ids, *drafts], r.branch)
            for r, drafts, _ in chunk.draws
        ]
        num_own = len(chunk.drafts) + 1
        kept = kept_tokens(chunk.drafts, drawn[:num_own])
        asks = request.params.logprobs is not None
        logprobs = [TokenLogprobs(token_id, -1.0, 1) for token_id in kept] if asks else ()
        forks = [ChunkResult((token_id,)) for token_id in drawn[num_own:]]
        return ChunkResult(kept, logprobs=logprobs, prompt_logprobs=scores, forks=forks)

    def _slot(self, request: Request, position: int) -> tuple[int, int]:
        return request.block_ids[position // self.block_size], position % self.block_size


def hashed_token(token_ids: Sequence[int]) -> int:
    """Return a token that follows from all before it and is hard to guess."""
    return zlib.crc32(bytes(token_ids)) % VOCAB_SIZE


def repeating_token(token_ids: Sequence[int]) -> int:
    """Return a token that mostly follows from the one before it: texts repeat themselves."""
    if len(token_ids) % 11 == 0:
        return hashed_token(token_ids)
    return zlib.crc32(bytes(token_ids[-1:])) % VOCAB_SIZE


def drawn_token(
    next_token: Callable[[Sequence[int]], int], token_ids: Sequence[int], branch: int
) -> int:
    """Return what a request's sequence of that number draws: each has a fixed shift of its own."""
    return (next_token(token_ids) + branch) % VOCAB_SIZE


def continuation(
    prompt: Sequence[int],
    count: int,
    next_token: Callable[[Sequence[int]], int] = hashed_token,
    branch: int = 0,
) -> list[int]:
    """Return the `count` tokens that the fake executor draws after a prompt."""
    token_ids = list(prompt)
    for _ in range(count):
        token_ids.append(drawn_token(next_token, token_ids, branch))
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
