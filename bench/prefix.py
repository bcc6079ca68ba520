"""What the prefix cache gains when a prefix is known, and what it costs when none ever is.

    python -m bench.prefix [--prefix 2000] [--repeats 5] [--threads 0]

Gain: the time to the first token of a prompt with a long prefix, new and known, on a random
checkpoint of SmolLM-135M's shape. Cost: throughput with the cache and without it, on fresh prompts
that never hit and a pool so small that each new block evicts a named one; on the bundled model,
where the engine's own work weighs most. Turn about, best of each; the cost is in CPU time of one
thread, so that other work on the machine counts little. Two such runs still differ by a percent
from time to time, so the same is measured without a model as well, where nothing else takes time.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from bench.common.checkpoints import SMOLLM_135M, write_checkpoint
from bench.common.machine import describe
from services.generator.engine import Engine, EngineConfig, SamplingParams, StepOutput
from services.generator.engine.chunk import Chunk, ChunkResult
from services.generator.engine.kv.block_pool import BlockPool
from services.generator.loading import load_engine
from services.generator.model.checkpoint.config import ModelConfig
from services.generator.model.kv_cache import block_bytes
from services.generator.model.loader import compute_dtype

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "bench" / "results" / "prefix.json"
TAIL = 16
NUM_REQUESTS, PROMPT_TOKENS, OUTPUT_TOKENS = 64, 128, 24
KV_CACHE_BYTES = 2**25
# for each round of the gain: they are short, and the difference is small
COST_ROUNDS, OWN_ROUNDS = 4, 20


def main() -> None:
    """Measure both, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--prefix", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="for the gain; 0: torch's choice")
    options = parser.parse_args()
    threads = options.threads or torch.get_num_threads()
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_checkpoint(Path(scratch), SMOLLM_135M)
        config = EngineConfig(folder, kv_cache_bytes=2**29, num_threads=threads)
        cold_s, warm_s = measure_gain(load_engine(config), options.prefix, options.repeats)
    print(f"first token, {options.prefix} tokens of prefix: new {cold_s * 1e3:.1f} ms,", end=" ")
    print(f"known {warm_s * 1e3:.1f} ms, {cold_s / warm_s:.1f} times faster")
    with_s, without_s = measure_cost(options.repeats * COST_ROUNDS)
    tokens = NUM_REQUESTS * OUTPUT_TOKENS
    print(f"no hits: {tokens / with_s:.0f} tokens/s with the cache,", end=" ")
    print(f"{tokens / without_s:.0f} without, costs {with_s / without_s - 1:.2%}")
    own_s = measure_own_work(options.repeats * OWN_ROUNDS)
    print(f"its own work: {own_s * 1e3:.1f} ms, {own_s / without_s:.2%} of the time without it")
    result = {
        **describe(),
        "options": vars(options),
        "threads": threads,
        "first_token": {"new_s": cold_s, "known_s": warm_s, "ratio": cold_s / warm_s},
        "no_hits": {
            "requests": NUM_REQUESTS,
            "prompt_tokens": PROMPT_TOKENS,
            "output_tokens": OUTPUT_TOKENS,
            "with_cpu_s": with_s,
            "without_cpu_s": without_s,
            "cost": with_s / without_s - 1,
            "own_work_cpu_s": own_s,
            "own_work_cost": own_s / without_s,
        },
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {RESULT}")


def measure_gain(engine: Engine, num_prefix_tokens: int, repeats: int) -> tuple[float, float]:
    """Return the seconds to the first token behind a new prefix and behind a known one."""
    rng = random.Random(0)
    cold_s: list[float] = []
    warm_s: list[float] = []
    for _ in range(repeats + 1):
        prefix = _prompt(engine, num_prefix_tokens, rng)
        cold_s.append(_first_token_s(engine, prefix + _prompt(engine, TAIL, rng), 0))
        num_hit = num_prefix_tokens // engine.config.block_size * engine.config.block_size
        warm_s.append(_first_token_s(engine, prefix + _prompt(engine, TAIL, rng), num_hit))
    # the first of each warms the engine up
    return min(cold_s[1:]), min(warm_s[1:])


def _first_token_s(engine: Engine, prompt: list[int], num_cached_tokens: int) -> float:
    started_s = time.perf_counter()
    engine.add("prompt", prompt, SamplingParams(1, temperature=0, ignore_eos=True))
    outputs: list[StepOutput] = []
    while not outputs:
        outputs = engine.step()
    first_token_s = time.perf_counter() - started_s
    assert outputs[0].num_cached_tokens == num_cached_tokens, "the prefix was not as expected"
    return first_token_s


def measure_cost(rounds: int) -> tuple[float, float]:
    """Return the CPU seconds of the same work with and without the cache."""
    engines = [load_engine(_config(is_on), time.process_time) for is_on in (True, False)]
    return _compare(engines, rounds)


def measure_own_work(rounds: int) -> float:
    """Return the CPU seconds that the cache adds to the same work without a model."""
    config = _config(True)
    model = ModelConfig.read(config.model)
    dtype = compute_dtype(model, None)
    num_blocks = KV_CACHE_BYTES // block_bytes(model, config.block_size, dtype)
    with_s, without_s = _compare(
        [
            Engine(_config(is_on), model, NoModel(), BlockPool(num_blocks, config.block_size))
            for is_on in (True, False)
        ],
        rounds,
    )
    return with_s - without_s


class NoModel:
    """Draws the same token whatever came before, at once."""

    def execute(self, chunks: Sequence[Chunk], overlap: Callable[[], object]) -> list[ChunkResult]:
        """Return a token for each chunk that wants one."""
        overlap()
        return [ChunkResult((10,) if chunk.samples else ()) for chunk in chunks]

    def clear(self, block_ids: Sequence[int]) -> None:
        """There is nothing to clear."""

    def release_memory(self) -> None:
        """Nothing is held."""

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """There is nothing to copy."""


def _config(prefix_caching: bool) -> EngineConfig:
    return EngineConfig(
        ROOT / "models" / "infermesh-tiny",
        max_num_seqs=32,
        kv_cache_bytes=KV_CACHE_BYTES,
        num_threads=1,
        target_step_s=0.0,
        prefix_caching=prefix_caching,
    )


def _compare(engines: list[Engine], rounds: int) -> tuple[float, float]:
    """Return the best CPU seconds of the engine with the cache and of the one without."""
    best_s = [float("inf"), float("inf")]
    rng = random.Random(1)
    for round_ in range(rounds + 1):
        prompts = [_prompt(engines[0], PROMPT_TOKENS, rng) for _ in range(NUM_REQUESTS)]
        # each goes first in every other round
        for which in (round_ % 2, 1 - round_ % 2):
            spent_s = _spent_s(engines[which], prompts)
            if round_ > 0:  # the first warms up
                best_s[which] = min(best_s[which], spent_s)
    assert engines[0].stats().num_prefix_hit_tokens == 0, "a fresh prompt was hit"
    return best_s[0], best_s[1]


def _spent_s(engine: Engine, prompts: list[list[int]]) -> float:
    started_s = time.process_time()
    params = SamplingParams(OUTPUT_TOKENS, temperature=0, ignore_eos=True)
    for index, prompt in enumerate(prompts):
        engine.add(str(index), prompt, params)
    while engine.has_work:
        engine.step()
    return time.process_time() - started_s


def _prompt(engine: Engine, length: int, rng: random.Random) -> list[int]:
    return rng.choices(range(10, engine.model_config.vocab_size), k=length)


if __name__ == "__main__":
    main()
