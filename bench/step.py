"""Where the time of a decode step goes, by the parts of the engine and by kernels.

    python -m bench.step [--sequences 1 8 32] [--steps 40] [--quantization int8]

SmolLM-135M shape with random weights in bfloat16, contexts from 128 tokens. Each kernel is
run by itself between steps, best of all; the Python parts are timed by cProfile, which itself
takes time. The best and the median step without either are printed beside, and what they are where
no step is planned in the one before. Writes bench/results/step.json.
"""

import argparse
import cProfile
import json
import pstats
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from bench.common.checkpoints import SMOLLM_135M, write_checkpoint
from bench.common.machine import describe
from services.generator.backend.cpu.loading import load_runner
from services.generator.backend.cpu.program import KernelCall, Program
from services.generator.engine import Engine, EngineConfig, SamplingParams
from services.generator.engine.chunk import Chunk, ChunkResult
from services.generator.engine.executor import Executor, Overlap
from services.generator.engine.kv.block_pool import BlockPool
from services.generator.model.checkpoint.config import ModelConfig
from services.generator.model.checkpoint.safetensors import Checkpoint

RESULT = Path(__file__).parent / "results" / "step.json"
PROMPT_TOKENS = 128
# room for all sequences at once, or fewer would run than the table says
KV_CACHE_BYTES = 2**30
# whole calls by the end of their file's name and their own
PARTS = {
    "layers": ("compiled_layers.py", ("__call__",)),
    "final norm and head": ("decoder.py", ("logits",)),
    "batch layout": ("runner.py", ("_prepare",)),
    "sampling": ("runner.py", ("_choose",)),
    "scheduler": ("scheduler.py", ("expire", "schedule", "plan_ahead", "commit", "observe_step")),
}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser("bench.step", description=__doc__)
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--quantization", choices=("int8",), default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_checkpoint(Path(scratch), SMOLLM_135M)
        config = EngineConfig(
            folder, kv_cache_bytes=KV_CACHE_BYTES, quantization=options.quantization
        )
        rows = [measure(config, count, options.steps) for count in options.sequences]
    for row in rows:
        print(f"\n{row['sequences']} sequences", end=", ")
        print(
            f"a step takes {row['best_ms']:.2f} ms at best, {row['median_ms']:.2f} in the median;"
        )
        print(
            f"unless it is planned in the one before: {row['unplanned_best_ms']:.2f}, "
            f"{row['unplanned_median_ms']:.2f}"
        )
        for title, parts in (("kernels", row["kernels_ms"]), ("profiled", row["parts_ms"])):
            print(title)
            for name, value in parts.items():
                print(f"  {name:<24}{value:8.2f} ms")
    result = {**describe(), "options": vars(options), "rows": rows}
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {RESULT.name}")


class SwitchedOverlap:
    """An executor whose runner plans the next step while it computes, or does not."""

    def __init__(self, runner: Executor) -> None:
        self.is_on = True
        self._runner = runner
        self.clear = runner.clear
        self.copy = runner.copy
        self.release_memory = runner.release_memory

    def execute(self, chunks: Sequence[Chunk], overlap: Overlap) -> list[ChunkResult]:
        """Return the runner's results; switched off, it is told of no next step."""
        return self._runner.execute(chunks, overlap if self.is_on else tuple)


def measure(config: EngineConfig, count: int, steps: int) -> dict[str, Any]:
    """Return a step's milliseconds with `count` sequences, whole and in parts."""
    shape = ModelConfig.read(config.model)
    runner, num_blocks = load_runner(config, shape, Checkpoint(config.model))
    executor = SwitchedOverlap(runner)
    engine = Engine(config, shape, executor, BlockPool(num_blocks, config.block_size))
    params = SamplingParams(max_tokens=6 * steps + 200, temperature=0.0, ignore_eos=True)
    num_tokens = {str(index): 0 for index in range(count)}
    for index, request_id in enumerate(num_tokens):
        engine.add(request_id, range(5 + index, 5 + index + PROMPT_TOKENS), params)
    while min(num_tokens.values()) < 2:
        for output in engine.step():
            num_tokens[output.request_id] += len(output.token_ids)
    assert engine.stats().num_running == count, "some sequences wait"
    planned_ms, unplanned_ms = steps_ms(engine, executor, steps)
    return {
        "sequences": count,
        "best_ms": min(planned_ms),
        "median_ms": statistics.median(planned_ms),
        "unplanned_best_ms": min(unplanned_ms),
        "unplanned_median_ms": statistics.median(unplanned_ms),
        "kernels_ms": kernels_ms(engine, steps),
        "parts_ms": parts_ms(engine, steps),
    }


def steps_ms(
    engine: Engine, executor: SwitchedOverlap, steps: int
) -> tuple[list[float], list[float]]:
    """Return the time of each step with the next one planned during it, and without, turn about."""
    times_ms: tuple[list[float], list[float]] = ([], [])
    for index in range(2 * steps):
        # in runs of ten, of which the first step still computes what the run before planned
        without = index // 10 % 2
        executor.is_on = not without
        started_s = time.perf_counter()
        engine.step()
        if index % 10:
            times_ms[without].append((time.perf_counter() - started_s) * 1e3)
    executor.is_on = True
    return times_ms


def kernels_ms(engine: Engine, steps: int) -> dict[str, float]:
    """Return the best time of each kernel's calls in one pass through the layers."""
    best: dict[str, float] = defaultdict(lambda: float("inf"))
    run = Program.run

    def run_and_time(program: Program, overlap: Callable[[], None] | None = None) -> None:
        run(program, overlap)
        # the layers' program alone has an overlap
        if overlap is not None:
            for name, calls in calls_by_kernel(program).items():
                part = Program(calls)
                started_s = time.perf_counter()
                run(part)
                best[name] = min(best[name], (time.perf_counter() - started_s) * 1e3)

    with mock.patch.object(Program, "run", run_and_time):
        for _ in range(steps):
            engine.step()
    return dict(best)


def calls_by_kernel(program: Program) -> dict[str, list[KernelCall]]:
    """Return a program's calls by the names of their kernels."""
    groups: dict[str, list[KernelCall]] = defaultdict(list)
    for call in program.calls:
        groups[call.kernel.name].append(call)
    return groups


def parts_ms(engine: Engine, steps: int) -> dict[str, float]:
    """Return the mean time of each part of a step under the profiler."""
    profile = cProfile.Profile()
    profile.enable()
    for _ in range(steps):
        engine.step()
    profile.disable()
    calls: dict[tuple[str, int, str], tuple[int, int, float, float, Any]]
    calls = pstats.Stats(profile).stats  # type: ignore[attr-defined]

    def spent_ms(file: str, functions: Sequence[str]) -> float:
        times_ms = {
            function: times[3] * 1e3 / steps
            for (path, _, function), times in calls.items()
            if path.endswith(f"/{file}") and function in functions
        }
        # a name that has changed would count as no time at all
        assert times_ms.keys() == set(functions), f"{file} runs {sorted(times_ms)} of {functions}"
        return sum(times_ms.values())

    parts = {name: spent_ms(*place) for name, place in PARTS.items()}
    # both are called from the layers
    planned = spent_ms("scheduler.py", ("plan_ahead",)) + parts["batch layout"]
    parts["layers"] -= planned
    whole = spent_ms("engine.py", ("step",))
    parts["the rest"] = whole - sum(parts.values())
    return {**parts, "all": whole}


if __name__ == "__main__":
    main()
