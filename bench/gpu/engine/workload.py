"""Nano-vLLM's benchmark: many requests of random lengths at once, and how our engine does.

https://github.com/GeeeekExplorer/nano-vllm, bench.py: 256 requests, prompts and outputs of 100 to
1,024 tokens; here greedy.
"""

import random
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

from services.generator.engine import Engine, FinishReason, SamplingParams

MAX_TOKEN_ID = 10000


class Ask(NamedTuple):
    """A prompt, and how many tokens must come of it."""

    prompt: list[int]
    max_tokens: int


@dataclass(frozen=True)
class Workload:
    """Lengths are uniform and inclusive; the same seed gives the same requests."""

    num_requests: int = 256
    min_tokens: int = 100
    max_tokens: int = 1024
    vocab_size: int = MAX_TOKEN_ID

    def requests(self, seed: int) -> list[Ask]:
        """Return the requests."""
        rng = random.Random(seed)
        limit = min(self.vocab_size, MAX_TOKEN_ID) - 1

        def length() -> int:
            return rng.randint(self.min_tokens, self.max_tokens)

        return [
            Ask([rng.randint(0, limit) for _ in range(length())], length())
            for _ in range(self.num_requests)
        ]


def num_kv_tokens(requests: list[Ask]) -> int:
    """Return the tokens of all requests when all have ended."""
    return sum(len(request.prompt) + request.max_tokens for request in requests)


def throughput(num_tokens: int, wall_s: float, requests: list[Ask]) -> dict[str, Any]:
    """Return a run's figures; raises RuntimeError where output tokens are missing."""
    expected = sum(request.max_tokens for request in requests)
    if num_tokens != expected:
        raise RuntimeError(f"{num_tokens} of {expected} output tokens came")
    return {
        "requests": len(requests),
        "prompt_tokens": sum(len(request.prompt) for request in requests),
        "output_tokens": num_tokens,
        "wall_s": wall_s,
        "tokens_per_s": num_tokens / wall_s,
    }


def serve(engine: Engine, requests: list[Ask]) -> dict[str, Any]:
    """Submit all at once and run until all have ended; return the figures."""
    before = engine.stats()
    started_s = time.perf_counter()
    for index, request in enumerate(requests):
        params = SamplingParams(max_tokens=request.max_tokens, temperature=0.0, ignore_eos=True)
        engine.add(f"request {index}", request.prompt, params)
    num_tokens = 0
    while engine.has_work:
        for output in engine.step():
            num_tokens += len(output.token_ids)
            if output.finish_reason not in (None, FinishReason.LENGTH):
                raise RuntimeError(f"{output.request_id} ended with {output.finish_reason}")
    figures = throughput(num_tokens, time.perf_counter() - started_s, requests)
    after = engine.stats()
    return {
        **figures,
        "steps": after.num_steps - before.num_steps,
        "preemptions": after.num_preemptions - before.num_preemptions,
    }
