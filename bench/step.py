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

from bench.checkpoints import SMOLLM_135M, write_checkpoint
from bench.machine import describe
from services.generator.backend.cpu.program import KernelCall, Program
from services.generator.engine import Engine, EngineConfig, SamplingParams
from services.generator.loading import load_engine

RESULT = Path(__file__).parent / "results" / "step.json"
PROMPT_TOKENS = 128
# room for all sequences at once, or fewer would run than the table says
KV_CACHE_BYTES = 2**30
# whole calls by the end of their file's name and their own
PARTS = {
    "layers": ("compiled_layers.py", ("__call__",)),
    "final norm and head": ("decoder.py", ("_logits",)),
    "batch layout": ("runner.py", ("_prepare",)),
    "sampling": ("runner.py", ("_draw",)),
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
        rows = [measure(load_engine(config), count, options.steps) for count in options.sequences]
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


def measure(engine: Engine, count: int, steps: int) -> dict[str, Any]:
    """Return a step's milliseconds with `count` sequences, whole and in parts."""
    params = SamplingParams(max_tokens=6 * steps + 200, temperature=0.0, ignore_eos=True)
    for index in range(count):
        engine.add(str(index), range(5 + index, 5 + index + PROMPT_TOKENS), params)
    while any(request.num_output_tokens < 2 for request in engine._requests.values()):
        engine.step()
    assert engine.stats().num_running == count, "some sequences wait"
    planned_ms, unplanned_ms = steps_ms(engine, steps)
    return {
        "sequences": count,
        "best_ms": min(planned_ms),
        "median_ms": statistics.median(planned_ms),
        "unplanned_best_ms": min(unplanned_ms),
        "unplanned_median_ms": statistics.median(unplanned_ms),
        "kernels_ms": kernels_ms(engine, steps),
        "parts_ms": parts_ms(engine, steps),
    }


def steps_ms(engine: Engine, steps: int) -> tuple[list[float], list[float]]:
    """Return the time of each step with the next one planned during it, and without, turn about."""
    scheduler = engine._scheduler
    plan_ahead = scheduler.plan_ahead
    taken: tuple[list[float], list[float]] = ([], [])
    for index in range(2 * steps):
        # in runs of ten, of which the first step still computes what the run before planned
        without = index // 10 % 2
        scheduler.plan_ahead = (lambda chunks: ()) if without else plan_ahead  # type: ignore[method-assign]
        started_s = time.perf_counter()
        engine.step()
        if index % 10:
            taken[without].append((time.perf_counter() - started_s) * 1e3)
    scheduler.plan_ahead = plan_ahead  # type: ignore[method-assign]
    return taken


def kernels_ms(engine: Engine, steps: int) -> dict[str, float]:
    """Return the best time of each kernel's calls in one pass through the layers."""
    model = engine._runner._model  # type: ignore[attr-defined]
    layers: Callable[..., Any] = model._layers
    best: dict[str, float] = defaultdict(lambda: float("inf"))

    def timed(*args: Any) -> Any:
        out = layers(*args)
        groups: dict[str, list[KernelCall]] = defaultdict(list)
        for call in layers._recording.program.calls:  # type: ignore[attr-defined]
            groups[call.kernel.name].append(call)
        for name, calls in groups.items():
            program = Program(calls)
            started_s = time.perf_counter()
            program.run()
            best[name] = min(best[name], (time.perf_counter() - started_s) * 1e3)
        return out

    model._layers = timed
    for _ in range(steps):
        engine.step()
    model._layers = layers
    return dict(best)


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
        return sum(
            times[3] * 1e3 / steps
            for (path, _, function), times in calls.items()
            if path.endswith(file) and function in functions
        )

    parts = {name: spent_ms(*place) for name, place in PARTS.items()}
    # both are called from the layers
    planned = spent_ms("scheduler.py", ("plan_ahead",)) + parts["batch layout"]
    parts["layers"] -= planned
    whole = spent_ms("engine.py", ("step",))
    parts["the rest"] = whole - sum(parts.values())
    return {**parts, "all": whole}


if __name__ == "__main__":
    main()
