"""Requests with lengths like a service's, and a loop that runs them through a scheduler."""

import random
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from services.generator.engine.chunk import Chunk, ChunkResult
from services.generator.engine.kv.prefix_cache import root_hash
from services.generator.engine.request import Request
from services.generator.engine.sampling_params import SamplingParams
from services.generator.engine.scheduling.scheduler import Scheduler

STOP = 0


class Lengths(NamedTuple):
    """Prompt and output tokens of one request."""

    num_prompt_tokens: int
    num_output_tokens: int


def conversation(
    seed: int, count: int, median_prompt: float = 1000, median_output: float = 160
) -> list[Lengths]:
    """Lengths with the shape of the Azure conversation trace: lognormal, long tails."""
    rng = random.Random(seed)
    return [
        Lengths(
            1 + int(median_prompt * rng.lognormvariate(0, 0.8)),
            1 + int(median_output * rng.lognormvariate(0, 0.7)),
        )
        for _ in range(count)
    ]


def requests(lengths: Iterable[Lengths], max_tokens: int) -> Iterator[tuple[Request, int]]:
    """Requests with prompts of their own, each with the length of the output it will stop after."""
    for index, (num_prompt_tokens, num_output_tokens) in enumerate(lengths):
        request = Request(
            request_id=str(index),
            token_ids=[index] * num_prompt_tokens,
            params=SamplingParams(max_tokens),
            seed=0,
            stop_token_ids=frozenset({STOP}),
            root_hash=root_hash(""),
            arrival_index=index,
            arrival_s=0.0,
        )
        yield request, min(num_output_tokens, max_tokens)


def run(
    scheduler: Scheduler,
    arrivals: Iterable[tuple[Request, int]],
    per_step: float,
    after_step: Callable[[], None] = lambda: None,
) -> int:
    """Let `per_step` requests arrive in each step until all have ended; return the steps."""
    coming = list(arrivals)
    num_total = len(coming)
    ends = {request.request_id: length for request, length in coming}
    coming.reverse()
    num_steps = 0
    while coming or scheduler.waiting or scheduler.running:
        while coming and num_total - len(coming) <= num_steps * per_step:
            scheduler.add(coming.pop()[0])
        chunks = scheduler.schedule(float(num_steps))
        results = [_draw(chunk, ends) for chunk in chunks]
        scheduler.commit(chunks, results, float(num_steps))
        num_steps += 1
        after_step()
    scheduler.check()
    return num_steps


def _draw(chunk: Chunk, ends: dict[str, int]) -> ChunkResult:
    if not chunk.samples:
        return ChunkResult()
    request = chunk.request
    is_last = request.num_output_tokens + 1 == ends[request.request_id]
    return ChunkResult((STOP if is_last else 1,))
