"""Warmup: steps run at load, so that no request waits for a compiler.

A kernel is compiled for each combination of constants, dtypes and alignments that it is launched
with; which those are follows from the sizes of a step and from what its requests ask for.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

from services.generator.backend.gpu.runner import GpuRunner
from services.generator.backend.gpu.sampling.logprobs import WIDTHS
from services.generator.engine.chunk import Chunk
from services.generator.engine.config import EngineConfig
from services.generator.engine.request import Request
from services.generator.engine.sampling_params import SamplingParams

_PLAIN = SamplingParams()
# their kernels read other dtypes, or are of other widths
_SAMPLING = (
    SamplingParams(repetition_penalty=1.1),
    *(SamplingParams(logprobs=width) for width in WIDTHS),
)

logger = logging.getLogger(__name__)


def warm_up(runner: GpuRunner, config: EngineConfig, num_tokens: int) -> None:
    """Run the steps that requests of up to `num_tokens` tokens may bring about; before any does."""
    started_s = time.monotonic()
    warmup = Warmup(config, num_tokens)
    steps = list(warmup.steps())
    for chunks in steps:
        runner.execute(chunks, lambda: ())
    first, second = warmup.one_behind_the_other()
    runner.execute([first], lambda: [second])
    if not runner.has_step_in_flight:
        raise RuntimeError("no step could be launched behind another; the log says why")
    runner.execute([second], lambda: ())
    runner.clear([0])
    logger.info("warmed up %d steps in %.1f s", len(steps) + 2, time.monotonic() - started_s)


@dataclass(frozen=True)
class Warmup:
    """Makes chunks whose keys and values are all in the first block, which is still free."""

    config: EngineConfig
    num_tokens: int  # of a sequence at most

    def steps(self) -> Iterator[list[Chunk]]:
        """Yield steps of all sizes, with prompts and without, and of all kinds of sampling."""
        config = self.config
        for size in _doubling(2, config.max_batched_tokens - 1):
            yield from self._mixed(1, size)
        for context in _doubling(config.block_size, self.num_tokens):
            yield from self._mixed(context, 2)
        for count in _doubling(1, config.max_num_seqs):
            yield [self._decode(1) for _ in range(count)]
        for params in _SAMPLING:
            yield [self._decode(1, params)]
        # a head of few bits is a kernel of ours, which has tiles for few rows and for many
        for size in _doubling(2, min(self.num_tokens, config.max_batched_tokens)):
            yield [Chunk(self._request(size, SamplingParams(prompt_logprobs=0)), 0, size)]

    def one_behind_the_other(self) -> tuple[Chunk, Chunk]:
        """Return two chunks of one request, of which the second takes what the first samples."""
        request = self._request(1)
        first = Chunk(request, 0, 1)
        request.num_lookahead_tokens = 1
        return first, Chunk(request, 1, 1)

    def _mixed(self, context: int, size: int) -> Iterator[list[Chunk]]:
        """Yield a step of a decode beside prompts of `size` tokens, in two where one may run."""
        decode, prompts = self._decode(context), self._prompts(size)
        if self.config.max_num_seqs > 1:
            yield [decode, *prompts[: self.config.max_num_seqs - 1]]
        else:
            yield [decode]
            yield prompts[:1]

    def _decode(self, context: int, params: SamplingParams = _PLAIN) -> Chunk:
        return Chunk(self._request(context, params), context - 1, 1)

    def _prompts(self, size: int) -> list[Chunk]:
        """Return as few as hold so many tokens together."""
        lengths = [self.num_tokens] * (size // self.num_tokens) + [size % self.num_tokens]
        return [Chunk(self._request(length), 0, length) for length in lengths if length > 1]

    def _request(self, num_tokens: int, params: SamplingParams = _PLAIN) -> Request:
        return Request(
            request_id="warmup",
            token_ids=[0] * num_tokens,
            params=params,
            seed=0,
            stop_token_ids=frozenset(),
            root_hash=b"",
            arrival_index=0,
            arrival_s=0.0,
            # one block more than needed, for a token that follows
            block_ids=[0] * (num_tokens // self.config.block_size + 1),
        )


def _doubling(first: int, last: int) -> list[int]:
    """Return `first`, twice that and so on, and `last`; nothing if that is less."""
    sizes = []
    while first < last:
        sizes.append(first)
        first *= 2
    return [*sizes, last] if sizes or first == last else []
