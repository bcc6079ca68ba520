"""The gaps between the tokens of running streams while a long prompt arrives.

    python -m bench.pace [--streams 8] [--prompt 4000] [--repeats 2]

A random checkpoint of SmolLM-135M's shape with a longer context decodes some streams; then one long
prompt comes. A gap is the time between two tokens of one stream. The streams' own pace as a target
for each step is held against no target, turn about with new prompts each time, after a warm-up; the
repeat with the lowest ratio of busy to idle gaps counts. Time is the CPU time of one thread, so
that other work on the machine counts little.
"""

import argparse
import json
import random
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.common.checkpoints import SMOLLM_135M, write_checkpoint
from bench.common.figures import percentile
from bench.common.machine import describe
from services.generator.engine import EngineConfig, SamplingParams
from services.generator.loading import load_engine

RESULT = Path(__file__).parent / "results" / "pace.json"
CONTEXT = 8192
STREAM_PROMPT, STREAM_OUTPUT = 128, 1024
IDLE_STEPS = 100
WARM_UP_PROMPT = 256
TARGETS: dict[str, float | None] = {"own pace": None, "none": 0.0}


@dataclass(frozen=True, slots=True)
class Pace:
    """Gaps without and with the prompt, its time to the first token, and ratio of the p99s."""

    idle_p99_s: float
    busy_p99_s: float
    busy_max_s: float
    first_token_s: float
    ratio: float


class Subject:
    """An engine whose streams and prompts no prefix cache knows."""

    def __init__(self, folder: Path, target_step_s: float | None) -> None:
        config = EngineConfig(
            folder, kv_cache_bytes=2**29, num_threads=1, target_step_s=target_step_s
        )
        self._engine = load_engine(config, clock=time.process_time)

    def measure(self, num_streams: int, num_prompt_tokens: int, rng: random.Random) -> Pace:
        """Decode alone for a while, then beside the prompt until its first token."""
        streams = [f"stream {index}" for index in range(num_streams)]
        for request_id in streams:
            self._add(request_id, STREAM_PROMPT, STREAM_OUTPUT, rng)
        while not set(streams) <= self._step().keys():
            pass
        told_s = self._step()
        idle: list[float] = []
        for _ in range(IDLE_STEPS):
            told_s = self._note_gaps(told_s, idle)
        started_s = time.process_time()
        self._add("prompt", num_prompt_tokens, 1, rng)
        busy: list[float] = []
        while "prompt" not in told_s:
            told_s = self._note_gaps(told_s, busy)
        for request_id in streams:
            self._engine.abort(request_id)
        self._engine.check()
        idle_p99_s, busy_p99_s = percentile(idle, 0.99), percentile(busy, 0.99)
        first_token_s = told_s["prompt"] - started_s
        return Pace(idle_p99_s, busy_p99_s, max(busy), first_token_s, busy_p99_s / idle_p99_s)

    def _add(self, request_id: str, length: int, max_tokens: int, rng: random.Random) -> None:
        prompt = [rng.randrange(3, SMOLLM_135M["vocab_size"]) for _ in range(length)]
        params = SamplingParams(max_tokens, temperature=0, ignore_eos=True)
        self._engine.add(request_id, prompt, params)

    def _step(self) -> dict[str, float]:
        """Return when each request was told a token in one step."""
        outputs = self._engine.step()
        now_s = time.process_time()
        return {output.request_id: now_s for output in outputs}

    def _note_gaps(self, before: dict[str, float], gaps: list[float]) -> dict[str, float]:
        told_s = self._step()
        gaps += [told_s[request_id] - last_s for request_id, last_s in before.items()]
        return told_s


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        shape = {**SMOLLM_135M, "max_position_embeddings": CONTEXT}
        folder = write_checkpoint(Path(scratch), shape)
        subjects = {name: Subject(folder, target) for name, target in TARGETS.items()}
        paces: dict[str, list[Pace]] = {name: [] for name in subjects}
        for subject in subjects.values():
            subject.measure(options.streams, WARM_UP_PROMPT, random.Random(-1))
        for repeat in range(options.repeats):
            for name, subject in subjects.items():
                pace = subject.measure(options.streams, options.prompt, random.Random(repeat))
                paces[name].append(pace)
                print(f"{name}, run {repeat + 1}: {pace}", flush=True)
    best = {name: min(found, key=lambda pace: pace.ratio) for name, found in paces.items()}
    _report(options, best, paces)


def _report(
    options: argparse.Namespace, best: dict[str, Pace], paces: dict[str, list[Pace]]
) -> None:
    print(
        f"{'target':<10} {'idle p99 ms':>11} {'busy p99 ms':>11} {'ratio':>6} {'max ms':>7}"
        f" {'first token s':>13}"
    )
    for name, pace in best.items():
        print(
            f"{name:<10} {pace.idle_p99_s * 1e3:>11.1f} {pace.busy_p99_s * 1e3:>11.1f}"
            f" {pace.ratio:>6.2f} {pace.busy_max_s * 1e3:>7.1f} {pace.first_token_s:>13.2f}"
        )
    result = {
        **describe(),
        "options": vars(options),
        "best": {name: asdict(pace) for name, pace in best.items()},
        "repeats": {name: [asdict(pace) for pace in found] for name, found in paces.items()},
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {RESULT}")


if __name__ == "__main__":
    main()
