"""Thousands of random requests through the real engine; in the end everything must add up.

    python -m bench.soak [--requests 5000] [--seed 0] [--model FOLDER]

Lengths, prefixes, seeds, stop ids, priorities, tenants, deadlines and aborts are random, and the KV
cache is so small that requests are preempted. Along the way the engine's accounts are checked; in
the end every request has had one outcome, no block is used, and the process has not grown by more
than GROWTH_LIMIT_BYTES since half of the requests had ended: torch keeps compiled operations for
shapes it has seen, until about two thousand requests have brought them all.
"""

import argparse
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from services.generator.engine import (
    Engine,
    EngineConfig,
    EngineStats,
    FinishReason,
    SamplingParams,
    StepOutput,
)
from services.generator.loading import load_engine

ROOT = Path(__file__).parent.parent
KV_CACHE_BYTES = 12 * 2**20
MAX_LIVE = 40
STEPS_PER_CHECK = 20
PROGRESS_LINES = 20
GROWTH_LIMIT_BYTES = 32 * 2**20


@dataclass(frozen=True, slots=True)
class Summary:
    """What the engine counted, and the process's memory after the warm-up and in the end."""

    stats: EngineStats
    warm_bytes: int
    end_bytes: int


class Crowd:
    """Random requests, and what is still to come of those that were sent."""

    def __init__(self, engine: Engine, seed: int) -> None:
        self._engine = engine
        self._rng = random.Random(seed)
        vocab = range(10, engine.model_config.vocab_size)
        self._vocab = vocab
        self._prefixes = [self._rng.choices(vocab, k=64) for _ in range(8)]
        self._live: dict[str, SamplingParams] = {}
        self._num_told: dict[str, int] = {}
        self.num_sent = 0
        self.num_ended = 0

    @property
    def num_live(self) -> int:
        """Requests without an outcome yet."""
        return len(self._live)

    def send(self) -> None:
        """Add one request."""
        rng = self._rng
        prefix = rng.choice(self._prefixes) if rng.random() < 0.4 else []
        prompt = prefix + rng.choices(self._vocab, k=min(1 + int(rng.expovariate(1 / 60)), 400))
        params = SamplingParams(
            1 + min(int(rng.expovariate(1 / 20)), 200),
            temperature=rng.choice([0.0, 0.7, 1.0]),
            top_k=rng.choice([0, 0, 20]),
            top_p=rng.choice([1.0, 0.9]),
            repetition_penalty=rng.choice([1.0, 1.0, 1.2]),
            seed=rng.choice([None, rng.getrandbits(32)]),
            stop_token_ids=tuple(rng.sample(self._vocab, rng.choice([0, 4, 64]))),
            logprobs=rng.choice([None, None, None, 2]),
            prompt_logprobs=rng.choice([None] * 9 + [0]),
        )
        request_id = str(self.num_sent)
        self._engine.add(
            request_id,
            prompt,
            params,
            cache_salt=rng.choice(["", "", "", "salt"]),
            priority=rng.choice([-1, 0, 0, 0, 1]),
            deadline=time.monotonic() + 0.1 if rng.random() < 0.02 else None,
            tenant=rng.choice(["a", "b", "c"]),
        )
        self.num_sent += 1
        self._live[request_id] = params
        self._num_told[request_id] = 0

    def abort_one(self) -> None:
        """End a random request."""
        output = self._engine.abort(self._rng.choice(list(self._live)))
        assert output is not None, "a live request was unknown to the engine"
        self.hear(output)

    def hear(self, output: StepOutput) -> None:
        """Note what came of a request; an ended one must not be heard of again."""
        params = self._live[output.request_id]
        self._num_told[output.request_id] += len(output.token_ids)
        assert not set(output.token_ids) & set(params.stop_token_ids), "a stop id was delivered"
        if output.finish_reason is None:
            return
        num_told = self._num_told.pop(output.request_id)
        del self._live[output.request_id]
        self.num_ended += 1
        assert num_told <= output.num_output_tokens <= params.max_tokens, "usage is wrong"

    def step(self, num_requests: int) -> None:
        """Send some of the requests that are left, abort now and then, step the engine."""
        while (
            self.num_sent < num_requests and self.num_live < MAX_LIVE and self._rng.random() < 0.5
        ):
            self.send()
        if self._live and self._rng.random() < 0.02:
            self.abort_one()
        for output in self._engine.step():
            self.hear(output)


def load(model: Path) -> Engine:
    """Return an engine whose cache is too small for all its sequences."""
    config = EngineConfig(
        model, max_num_seqs=16, max_batched_tokens=256, kv_cache_bytes=KV_CACHE_BYTES, seed=0
    )
    return load_engine(config)


def soak(
    engine: Engine, num_requests: int, seed: int, tell: Callable[[str], None] = print
) -> Summary:
    """Run all requests to their ends; raises AssertionError where something does not add up."""
    crowd = Crowd(engine, seed)
    warm_bytes = num_steps = num_told = 0
    while crowd.num_ended < num_requests:
        crowd.step(num_requests)
        num_steps += 1
        if num_steps % STEPS_PER_CHECK == 0:
            engine.check()
        if not warm_bytes and crowd.num_ended >= num_requests // 2:
            warm_bytes = _resident_bytes()
        if crowd.num_ended * PROGRESS_LINES // num_requests > num_told:
            num_told = crowd.num_ended * PROGRESS_LINES // num_requests
            tell(f"{crowd.num_ended} of {num_requests} ended, {_resident_bytes() >> 20} MiB")
    engine.check()
    stats = engine.stats()
    assert not engine.has_work, "a request is left over"
    assert FinishReason.ERROR not in stats.outcomes, "a request failed"
    assert sum(stats.outcomes.values()) == stats.num_admissions == num_requests
    assert stats.num_blocks_used == 0, "a block is still used"
    assert stats.num_blocks_free + stats.num_blocks_cached == stats.num_blocks_total
    return Summary(stats, warm_bytes, _resident_bytes())


def _resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def main() -> None:
    """Run, print the summary, and fail if the process has grown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "infermesh-tiny")
    options = parser.parse_args()
    started_s = time.monotonic()
    summary = soak(load(options.model), options.requests, options.seed)
    stats, grown_bytes = summary.stats, summary.end_bytes - summary.warm_bytes
    outcomes = ", ".join(f"{reason.value} {n}" for reason, n in stats.outcomes.items())
    print(
        f"{options.requests} requests in {time.monotonic() - started_s:.0f} s, {stats.num_steps}"
        f" steps, {stats.num_generated_tokens} tokens; outcomes: {outcomes};"
        f" {stats.num_preemptions} preemptions, {stats.num_prefix_hit_tokens} prefix tokens hit;"
        f" memory {grown_bytes / 2**20:+.1f} MiB since the warm-up"
    )
    if grown_bytes > GROWTH_LIMIT_BYTES:
        raise SystemExit(f"the process grew by more than {GROWTH_LIMIT_BYTES >> 20} MiB")


if __name__ == "__main__":
    main()
