"""A language model without weights: a fixed distribution over the vocabulary after any tokens.

The tokens so far hash to the likeliest next one; the others follow by number, around the end of the
vocabulary. Rank r has the probability 1 / (r * (r + 1)), so what is drawn, scored and searched by
beams agrees. Of the options that reshape probabilities only temperature 0 and bans do anything.
"""

import math
from array import array
from collections.abc import Sequence
from hashlib import blake2b
from zlib import crc32

from services.generator.engine.draw import Draw
from services.generator.engine.request import Request
from services.generator.engine.sequences.fork import sequence_seed
from services.generator.engine.token_logprobs import Candidate, TokenLogprobs


def digest(token_ids: Sequence[int], before: int = 0) -> int:
    """Return a hash of all tokens up to these, given that of those before them."""
    return crc32(array("I", token_ids).tobytes(), before)


class MockModel:
    """Contexts come as their digests; whatever is returned follows from them and the options."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size

    def draw(self, context: int, draw: Draw) -> int:
        """Return the next token: never a stop token, unless nothing else is allowed."""
        params, stops = draw.params, draw.request.stop_token_ids
        allowed = sorted(params.allowed_token_ids) or range(self._vocab_size)
        first = self._top(context) + self._drawn_rank(context, draw) - 1
        for index in range(len(allowed)):
            token_id = allowed[(first + index) % len(allowed)]
            if token_id not in stops and token_id not in params.bad_token_ids:
                return token_id
        return next(token_id for token_id in allowed if token_id not in params.bad_token_ids)

    def logprobs(self, context: int, token_id: int, count: int) -> TokenLogprobs:
        """Return a token's log-probability and rank beside the `count` likeliest."""
        top = self._top(context)
        rank = (token_id - top) % self._vocab_size + 1
        ranks = range(1, min(count, self._vocab_size) + 1)
        return TokenLogprobs(
            token_id,
            _logprob(rank),
            rank,
            tuple((top + each - 1) % self._vocab_size for each in ranks),
            tuple(map(_logprob, ranks)),
        )

    def candidates(self, context: int, beam: Request) -> list[Candidate]:
        """Return a beam's likeliest continuations, best first; stop tokens are none."""
        params, top = beam.params, self._top(context)
        allowed = frozenset(params.allowed_token_ids)
        candidates: list[Candidate] = []
        for rank in range(1, self._vocab_size + 1):
            token_id = (top + rank - 1) % self._vocab_size
            if token_id in beam.stop_token_ids or token_id in params.bad_token_ids:
                continue
            if not allowed or token_id in allowed:
                candidates.append(Candidate(token_id, _logprob(rank)))
            if len(candidates) == params.beam_width:
                break
        return candidates

    def _top(self, context: int) -> int:
        return _hash(context) % self._vocab_size

    def _drawn_rank(self, context: int, draw: Draw) -> int:
        """Return 1 where greedy; else rank r with the probability that its token has."""
        if draw.params.is_greedy:
            return 1
        seed = sequence_seed(draw.params.seed or 0, draw.request.branch)
        uniform = (_hash(context, seed) + 1) / 2**64
        return min(int(1 / uniform), self._vocab_size)


def _logprob(rank: int) -> float:
    return -math.log(rank * (rank + 1))


def _hash(context: int, seed: int = 0) -> int:
    key = (seed % 2**64).to_bytes(8, "little")
    return int.from_bytes(
        blake2b(context.to_bytes(8, "little"), digest_size=8, key=key).digest(), "little"
    )
