"""Speculative decoding on against off: same weights, same process, turn about, best of N.

    python -m bench.speculation [--model FOLDER] [--concurrency 1 8 32] [--repeats 5] [--quick]

Four kinds of traffic: `answers` from passages, which end by themselves and mostly copy a span;
`loops`, the same for 128 tokens past their ends, where a small model repeats itself; `random`
prompts at a high temperature, where nothing recurs; and `traps`, drawn almost evenly from sixteen
tokens, where every pair has occurred and nearly every guess is wrong.
"""

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from bench.common.machine import describe
from services.generator.engine import Engine, EngineConfig, SamplingParams
from services.generator.loading import load_engine
from training.grounding import render

ROOT = Path(__file__).parent.parent
QUESTIONS = ROOT / "training" / "free_questions.jsonl"
RESULT = Path(__file__).parent / "results" / "speculation.json"
RANDOM_PROMPT_TOKENS = 128
HIGH_TEMPERATURE = 5.0
Asked = Sequence[tuple[list[int], SamplingParams]]


@dataclass
class Side:
    """One engine's best run of one traffic, and what its drafts did over all runs.

    CPU seconds are the least of any run; a busy machine disturbs them less.
    """

    wall_s: float = float("inf")
    cpu_s: float = float("inf")
    num_tokens: int = 0
    num_steps: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0

    @property
    def tokens_per_s(self) -> float:
        """Of the best run."""
        return self.num_tokens / self.wall_s


def main() -> None:
    """Measure, print, write."""
    options = _parse_options()
    if options.threads:
        torch.set_num_threads(options.threads)
    engines = {
        tokens: load_engine(
            EngineConfig(
                options.model,
                options.dtype,
                kv_cache_bytes=2**28,
                speculative_tokens=tokens,
                seed=0,
            )
        )
        for tokens in (0, options.speculative_tokens)
    }
    rows = []
    print(
        _line("traffic", "requests", "off", "on", "ratio", "by CPU", "drafts", "accepted", "same")
    )
    for traffic in options.traffic:
        for count in options.concurrency:
            asked = _traffic(traffic, count, options)
            row = _compare(engines, asked, options.repeats)
            rows.append({"traffic": traffic, "requests": count, **row})
            _print(rows[-1])
    RESULT.parent.mkdir(exist_ok=True)
    shown = {**vars(options), "model": str(options.model)}
    result = {**describe(), "options": shown, "threads": torch.get_num_threads()}
    RESULT.write_text(json.dumps({**result, "rows": rows}, indent=2) + "\n")
    print(f"\nwritten to {RESULT}")


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, default=Path("models/infermesh-tiny"))
    parser.add_argument("--dtype", default=None, help="default: the checkpoint's")
    parser.add_argument("--traffic", nargs="+", default=["answers", "loops", "random", "traps"])
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="0 keeps torch's choice")
    parser.add_argument("--speculative-tokens", type=int, default=7)
    parser.add_argument("--output-tokens", type=int, default=128)
    parser.add_argument("--quick", action="store_true", help="8 requests, 32 tokens, once")
    options = parser.parse_args()
    if options.quick:
        options.concurrency, options.repeats, options.output_tokens = [8], 1, 32
    return options


def _traffic(name: str, count: int, options: argparse.Namespace) -> Asked:
    """Return what `count` requests ask."""
    rng = random.Random(0)
    length = options.output_tokens
    if name in ("random", "traps"):
        vocab_size = json.loads((options.model / "config.json").read_text())["vocab_size"]
        known = range(300, 316 if name == "traps" else vocab_size)
        allowed = tuple(known) if name == "traps" else ()
        return [
            (
                rng.choices(known, k=RANDOM_PROMPT_TOKENS),
                SamplingParams(
                    max_tokens=length,
                    temperature=HIGH_TEMPERATURE,
                    seed=index,
                    ignore_eos=True,
                    allowed_token_ids=allowed,
                ),
            )
            for index in range(count)
        ]
    prompts = _questions(options.model)
    params = SamplingParams(max_tokens=length, temperature=0, ignore_eos=name == "loops")
    return [(prompt, params) for prompt in rng.sample(prompts, count)]


def _questions(model: Path) -> list[list[int]]:
    """Encode the questions with their passages, in the bundled model's template."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    prompts = []
    for line in QUESTIONS.read_text().splitlines():
        question = json.loads(line)
        system = render(question["passages"])
        turns = f"<|system|> {system}<|end|><|user|> {question['question']}<|end|>"
        text = f"<|begin|>{turns}<|assistant|>"
        prompts.append(tokenizer.encode(text, add_special_tokens=False).ids)
    return prompts


def _compare(engines: dict[int, Engine], asked: Asked, repeats: int) -> dict[str, Any]:
    """Run both engines in turn, so that a busy machine slows both alike; the first runs warm up."""
    sides = {tokens: Side() for tokens in engines}
    outputs: dict[int, list[list[int]]] = {}
    for repeat in range(repeats + 1):
        # who goes first has the colder caches
        turns = list(engines.items())[:: 1 if repeat % 2 else -1]
        for tokens, engine in turns:
            outputs[tokens] = _run(engine, asked, sides[tokens] if repeat else Side())
    off, on = sides.values()
    num_same = sum(one == other for one, other in zip(*outputs.values(), strict=True))
    return {
        "off": asdict(off) | {"tokens_per_s": off.tokens_per_s},
        "on": asdict(on) | {"tokens_per_s": on.tokens_per_s},
        "ratio": on.tokens_per_s / off.tokens_per_s,
        "ratio_cpu": off.cpu_s / on.cpu_s,
        "acceptance": on.num_accepted_tokens / max(1, on.num_draft_tokens),
        "same_outputs": num_same / len(asked),
        "repeats": repeats,
    }


def _run(engine: Engine, asked: Asked, side: Side) -> list[list[int]]:
    """Run one batch to its end and keep it if it is the fastest; return the outputs."""
    outputs: dict[str, list[int]] = {str(index): [] for index in range(len(asked))}
    before = engine.stats()
    started, started_cpu = time.perf_counter(), time.process_time()
    for index, (prompt, params) in enumerate(asked):
        # a salt of its own, so that no prefix of an earlier run helps
        engine.add(str(index), prompt, params, cache_salt=str(before.num_steps))
    while engine.has_work:
        for output in engine.step():
            outputs[output.request_id] += output.token_ids
    wall_s = time.perf_counter() - started
    side.cpu_s = min(side.cpu_s, time.process_time() - started_cpu)
    after = engine.stats()
    num_tokens = after.num_generated_tokens - before.num_generated_tokens
    if wall_s < side.wall_s:
        side.wall_s, side.num_tokens = wall_s, num_tokens
        side.num_steps = after.num_steps - before.num_steps
    side.num_draft_tokens += after.num_draft_tokens - before.num_draft_tokens
    side.num_accepted_tokens += after.num_accepted_tokens - before.num_accepted_tokens
    return list(outputs.values())


def _print(row: dict[str, Any]) -> None:
    print(
        _line(
            row["traffic"],
            row["requests"],
            f"{row['off']['tokens_per_s']:.0f}",
            f"{row['on']['tokens_per_s']:.0f}",
            f"{row['ratio']:.2f}x",
            f"{row['ratio_cpu']:.2f}x",
            row["on"]["num_draft_tokens"],
            f"{row['acceptance']:.0%}",
            f"{row['same_outputs']:.0%}",
        ),
        flush=True,
    )


def _line(*cells: object) -> str:
    return " ".join(f"{cell!s:>9}" for cell in cells)


if __name__ == "__main__":
    main()
