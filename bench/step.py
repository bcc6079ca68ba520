"""Where the time of a decode step goes, by the parts of the engine.

    python -m bench.step [--sequences 1 32] [--steps 60] [--quantization int8]

SmolLM-135M's shape with random weights in bfloat16, contexts from 148 tokens. The parts are timed
by cProfile, which itself takes time; the best step without it is printed beside. Writes
bench/results/step.json.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.checkpoints import SMOLLM_135M, write_checkpoint
from bench.machine import describe
from services.generator.engine import Engine, EngineConfig, SamplingParams

RESULT = Path(__file__).parent / "results" / "step.json"
PROMPT_TOKENS = 128
WARM_UP_STEPS = 20
# whole calls by the end of their file's name and their own
PARTS = {
    "linear layers and head": ("linear.py", ("__call__", "add_to")),
    "attention": ("native_attention.py", ("__call__",)),
    "norms": ("norm.py", ("__call__",)),
    "gates": ("gated_activation.py", ("__call__",)),
    "rotation": ("heads.py", ("__call__",)),
    "batch layout": ("batch.py", ("build_batch",)),
    "sampling": ("runner.py", ("_draw",)),
    "scheduler": ("scheduler.py", ("expire", "schedule", "commit", "observe_step")),
}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser("bench.step", description=__doc__)
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--quantization", choices=("int8",), default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_checkpoint(Path(scratch), SMOLLM_135M)
        config = EngineConfig(folder, kv_cache_bytes=2**28, quantization=options.quantization)
        rows = [measure(Engine.load(config), count, options.steps) for count in options.sequences]
    for row in rows:
        print(f"\n{row['sequences']} sequences, best step {row['best_ms']:.2f} ms; profiled:")
        for name, value in row["parts_ms"].items():
            print(f"  {name:<24}{value:8.2f} ms")
    result = {**describe(), "options": vars(options), "rows": rows}
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {RESULT.name}")


def measure(engine: Engine, count: int, steps: int) -> dict[str, Any]:
    """Return the best step and the mean milliseconds of each part for `count` sequences."""
    params = SamplingParams(max_tokens=1000, temperature=0.0, ignore_eos=True)
    for index in range(count):
        engine.add(str(index), range(5 + index, 5 + index + PROMPT_TOKENS), params)
    for _ in range(WARM_UP_STEPS):
        engine.step()
    best_s = float("inf")
    for _ in range(steps):
        started_s = time.perf_counter()
        engine.step()
        best_s = min(best_s, time.perf_counter() - started_s)
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
    whole = spent_ms("engine.py", ("step",))
    parts["the rest"] = whole - sum(parts.values())
    return {"sequences": count, "best_ms": best_s * 1e3, "parts_ms": {**parts, "all": whole}}


if __name__ == "__main__":
    main()
