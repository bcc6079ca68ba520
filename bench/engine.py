"""Our engine against transformers, same weights, same process, interleaved, best of N.

    python -m bench.engine [--concurrency 1 8 32] [--repeats 3] [--quick]

A random checkpoint of SmolLM-135M's shape in bfloat16 serves N prompts of 128 tokens, 64 tokens
out each, greedy. First a gate in float32: no speed is shown unless the tokens agree.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as typed_transformers

from bench.checkpoints import SMOLLM_135M, write_checkpoint
from bench.machine import describe
from services.generator.engine import Engine, EngineConfig, SamplingParams

# Its public functions are only partly annotated, which strict checking would refuse one by one.
transformers: Any = typed_transformers
RESULT = Path(__file__).parent / "results" / "engine.json"
Prompts = list[list[int]]
Generate = Callable[[Prompts, int], list[list[int]]]


@dataclass
class Timing:
    """The best run of one subject at one concurrency; CPU seconds are of that process."""

    wall_s: float = float("inf")
    cpu_s: float = float("inf")

    def add(self, wall_s: float, cpu_s: float) -> None:
        """Keep the lower of each."""
        self.wall_s = min(self.wall_s, wall_s)
        self.cpu_s = min(self.cpu_s, cpu_s)


def main() -> None:
    """Gate, measure, print, write."""
    options = _parse_options()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_checkpoint(Path(scratch), SMOLLM_135M)
        _gate(folder)
        subjects = {
            "infermesh": _ours(folder, "bfloat16"),
            "infermesh, torch attention": _ours(folder, "bfloat16", attention="torch"),
            "generate_batch": _generate_batch(folder),
            "generate": _generate(_reference(folder, torch.bfloat16)),
        }
        timings: dict[int, dict[str, Timing]] = {}
        for count in options.concurrency:
            timings[count] = _measure(subjects, count, options.output_tokens, options.repeats)
            _report(options, timings)


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=0, help="0 keeps torch's choice")
    parser.add_argument("--quick", action="store_true", help="8 requests, 16 tokens, once")
    options = parser.parse_args()
    if options.quick:
        options.concurrency, options.repeats, options.output_tokens = [8], 1, 16
    return options


def _prompts(count: int, seed: int, length: int = 128) -> Prompts:
    rng = random.Random(seed)
    return [
        [rng.randrange(3, SMOLLM_135M["vocab_size"]) for _ in range(length)] for _ in range(count)
    ]


def _ours(folder: Path, dtype: str, attention: str = "auto") -> Generate:
    engine = Engine.load(
        EngineConfig(folder, dtype=dtype, kv_cache_bytes=2**30, attention=attention)
    )

    def generate(prompts: Prompts, num_tokens: int) -> list[list[int]]:
        params = SamplingParams(max_tokens=num_tokens, temperature=0, ignore_eos=True)
        outputs: dict[str, list[int]] = {str(index): [] for index in range(len(prompts))}
        for index, prompt in enumerate(prompts):
            engine.add(str(index), prompt, params)
        while engine.has_work:
            for output in engine.step():
                outputs[output.request_id] += output.token_ids
        engine.check()
        return list(outputs.values())

    return generate


def _reference(folder: Path, dtype: torch.dtype) -> Any:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    model.generation_config.eos_token_id = None
    return model.eval()


def _generate_batch(folder: Path) -> Generate:
    """Return transformers' continuous batching, with our step budget and room for every request."""
    model = _reference(folder, torch.bfloat16)

    def generate(prompts: Prompts, num_tokens: int) -> list[list[int]]:
        results = model.generate_batch(
            prompts,
            generation_config=transformers.GenerationConfig(
                max_new_tokens=num_tokens, do_sample=False, eos_token_id=-1, pad_token_id=0
            ),
            continuous_batching_config=transformers.ContinuousBatchingConfig(
                page_size=32, num_blocks=8 * len(prompts) + 8, max_batch_tokens=512
            ),
            progress_bar=False,
        )
        return [list(result.generated_tokens) for result in results.values()]

    return generate


def _generate(model: Any) -> Generate:
    """Return transformers' static batch: no admission, equal lengths, all start together."""

    def generate(prompts: Prompts, num_tokens: int) -> list[list[int]]:
        ids = torch.tensor(prompts)
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=num_tokens,
            do_sample=False,
            pad_token_id=0,
        )
        return [row.tolist() for row in out[:, ids.shape[1] :]]

    return generate


def _gate(folder: Path) -> None:
    """Refuse to measure an engine that does not compute what transformers does."""
    prompts = _prompts(2, seed=1, length=32)
    expected = _generate(_reference(folder, torch.float32))(prompts, 8)
    if _ours(folder, "float32")(prompts, 8) != expected:
        raise SystemExit("gate: tokens differ from transformers' in float32, no speed is shown")
    print("gate: float32 tokens agree with transformers")


def _measure(
    subjects: dict[str, Generate], count: int, num_tokens: int, repeats: int
) -> dict[str, Timing]:
    """Run all subjects in turn, so that a busy machine slows each of them alike."""
    timings = {name: Timing() for name in subjects}
    for generate in subjects.values():
        generate(_prompts(count, seed=99), 2)
    for repeat in range(repeats):
        # New prompts each time, so that no prefix cache helps.
        prompts = _prompts(count, seed=repeat)
        for name, generate in subjects.items():
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            outputs = generate(prompts, num_tokens)
            timings[name].add(time.perf_counter() - wall_s, time.process_time() - cpu_s)
            print(f"{count} requests, run {repeat + 1}: {name} {timings[name]}", flush=True)
            if [len(output) for output in outputs] != [num_tokens] * count:
                raise SystemExit(f"{name} did not deliver {num_tokens} tokens for each request")
    return timings


def _report(options: argparse.Namespace, timings: dict[int, dict[str, Timing]]) -> None:
    rows = [
        _row(count, name, timing, by_name["infermesh"], count * options.output_tokens)
        for count, by_name in timings.items()
        for name, timing in by_name.items()
    ]
    print(
        f"\n{'requests':>8} {'subject':<15} {'tokens/s':>9} {'wall s':>8} {'CPU s':>8}"
        f" {'ours is':>8}"
    )
    for row in rows:
        print(
            f"{row['requests']:>8} {row['subject']:<15} {row['tokens_per_s']:>9.1f}"
            f" {row['wall_s']:>8.2f} {row['cpu_s']:>8.2f} {row['ratio_wall']:>7.2f}x"
        )
    RESULT.parent.mkdir(exist_ok=True)
    result = {**describe(), "options": vars(options), "threads": torch.get_num_threads()}
    RESULT.write_text(json.dumps({**result, "rows": rows}, indent=2) + "\n")
    print(f"\nwritten to {RESULT}")


def _row(count: int, name: str, timing: Timing, ours: Timing, num_tokens: int) -> dict[str, Any]:
    return {
        "requests": count,
        "subject": name,
        "tokens_per_s": num_tokens / timing.wall_s,
        **asdict(timing),
        "ratio_wall": timing.wall_s / ours.wall_s,
        "ratio_cpu": timing.cpu_s / ours.cpu_s,
    }


if __name__ == "__main__":
    main()
