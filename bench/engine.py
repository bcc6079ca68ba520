"""Our engine against others, same weights, each a process of its own, interleaved, best of N.

    python -m bench.engine [--shapes smollm-135m qwen3-0.6b] [--concurrency 1 8 32] [--repeats 3]
                           [--subjects infermesh openvino ...] [--quick]

Random checkpoints in bfloat16, or SmolLM2's, serve N prompts of 128 tokens, 64 tokens out each,
greedy, prefill counted. First a gate in float32: no speed is shown unless our tokens agree with
transformers'. Peers install once into --peers-folder; one that cannot be had or fails is named with
its reason.
"""

import argparse
import json
import os
import random
import signal
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from bench.bandwidth import read_bytes_per_s
from bench.common.checkpoints import (
    QWEN3_0_6B,
    SMOLLM_135M,
    TINY,
    num_linear_weights,
    write_checkpoint,
)
from bench.common.figures import Figures, floor_share
from bench.common.machine import describe
from bench.common.real_model import real_model_config, real_model_file, write_real_checkpoint
from bench.common.report import Row, markdown, placed, text
from bench.peers.cached_folder import cached_folder
from bench.peers.catalogue import OURS, subjects
from bench.peers.competitor import Competitor, Place
from bench.peers.process import PeerError
from cli.models.locate import UnknownModelError

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "bench" / "results" / "engine.json"
DOCUMENT = ROOT / "docs" / "performance.md"
RANDOM: Mapping[str, Mapping[str, Any]] = {
    "smollm-135m": SMOLLM_135M,
    "qwen3-0.6b": QWEN3_0_6B,
    "tiny": TINY,
}
REAL = "smollm2-135m"
SHAPES = (*RANDOM, REAL)
PROMPT_TOKENS = 128
GATE_PROMPTS, GATE_TOKENS = 8, 8
Prompts = list[list[int]]


def main() -> None:
    """Measure every shape; print after each concurrency, so that a long run tells early."""
    # an end by `kill` has to end the workers too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    options = _parse_options()
    run = Comparison(options)
    for shape in options.shapes:
        run.measure(shape)
    if options.output is not None:
        run.write(options.output)


def _parse_options() -> argparse.Namespace:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=[])
    parser.add_argument("--subjects", nargs="+", choices=subjects(), default=list(subjects()))
    parser.add_argument("--concurrency", type=int, nargs="+", default=[])
    parser.add_argument("--repeats", type=int, default=0)
    parser.add_argument("--output-tokens", type=int, default=0)
    parser.add_argument("--peers-folder", type=Path, default=cache / "infermesh" / "peers")
    parser.add_argument("--output", type=Path, help=f"default {RESULT.name}; none with --quick")
    parser.add_argument("--quick", action="store_true", help="one shape, 1 and 8, 16 tokens, once")
    options = parser.parse_args()
    quick: bool = options.quick
    options.shapes = options.shapes or (["smollm-135m"] if quick else ["smollm-135m", "qwen3-0.6b"])
    options.concurrency = options.concurrency or ([1, 8] if quick else [1, 8, 32])
    options.repeats = options.repeats or (1 if quick else 3)
    options.output_tokens = options.output_tokens or (16 if quick else 64)
    options.output = options.output or (None if quick else RESULT)
    return options


class Comparison:
    """Collects rows, and the reasons why there are none, over all shapes."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._configs: dict[str, Mapping[str, Any]] = {}
        self._rows: list[Row] = []
        self._absent: dict[str, dict[str, str]] = {}
        self._agreement: dict[str, dict[str, float]] = {}
        self._read_bytes_per_s: dict[str, float] = {}
        self._versions: dict[str, dict[str, str]] = {}

    def measure(self, shape: str) -> None:
        """Write the checkpoint, pass the gate, then time all subjects at each concurrency."""
        checkpoint = self._options.peers_folder / "checkpoints" / shape / "source"
        config = self._configs[shape] = _written(shape, checkpoint)
        place = Place(
            checkpoint,
            self._options.peers_folder,
            max_num_seqs=max(*self._options.concurrency, GATE_PROMPTS),
            max_num_tokens=PROMPT_TOKENS + self._options.output_tokens,
        )
        self._absent[shape] = {}
        self._read_bytes_per_s[shape] = read_bytes_per_s()
        expected = _gate(place, config)
        with ExitStack() as stack:
            live = self._start(shape, place, stack, expected)
            for count in self._options.concurrency:
                best = self._best(shape, live, count)
                self._add_rows(shape, count, live, best)
                print(text(self._rows, self._absent), flush=True)

    def write(self, output: Path) -> None:
        """Write the result as JSON, and the table into the documentation if it is the result."""
        origin = {
            **describe(),
            "subject_versions": self._versions,
            "read_bytes_per_s": self._read_bytes_per_s,
        }
        # folders tell nothing on another machine
        options = {
            name: value
            for name, value in vars(self._options).items()
            if not isinstance(value, Path)
        }
        result = {
            **origin,
            "options": options,
            "absent": self._absent,
            "first_tokens_as_float32": self._agreement,
            "rows": [row.fields() for row in self._rows],
        }
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(result, indent=2) + "\n")
        print(f"\nwritten to {output}")
        if output == RESULT:
            section = markdown(self._rows, self._absent, origin)
            DOCUMENT.write_text(placed(DOCUMENT.read_text(), section))

    def _start(
        self, shape: str, place: Place, stack: ExitStack, expected: list[list[int]]
    ) -> dict[str, Competitor]:
        """Start all workers one after the other; each stays, stopped, until the shape is done."""
        live: dict[str, Competitor] = {}
        catalogue = subjects()
        prompt = _prompts(1, 98, self._configs[shape])
        for name in self._options.subjects:
            try:
                each = stack.enter_context(Competitor(name, catalogue[name], place))
                each.start_up(prompt)
                tokens = each.run(_gate_prompts(self._configs[shape]), 1).token_ids
            except PeerError as error:
                self._leave_out(shape, name, error)
                continue
            live[name] = each
            self._versions[name] = each.versions
            same = sum(
                mine[:1] == theirs[:1] for mine, theirs in zip(tokens, expected, strict=True)
            )
            self._agreement.setdefault(shape, {})[name] = same / len(expected)
            print(
                f"{name} {each.versions}: first token after {each.startup_s:.2f} s,"
                f" {same} of {len(expected)} first tokens are those of float32",
                flush=True,
            )
        return live

    def _best(self, shape: str, live: dict[str, Competitor], count: int) -> dict[str, Figures]:
        """Run all subjects in turn, so that a busy machine slows each of them alike."""
        config = self._configs[shape]
        best: dict[str, Figures] = {}
        # new prompts each time, so that no prefix cache helps
        for repeat in range(-1, self._options.repeats):
            prompts = _prompts(count, repeat, config)
            if count == 1:
                speed = max(self._read_bytes_per_s[shape], read_bytes_per_s())
                self._read_bytes_per_s[shape] = speed
            for name, competitor in list(live.items()):
                # the run before the first one warms up
                num_tokens = 2 if repeat < 0 else self._options.output_tokens
                try:
                    figures = _run(competitor, prompts, num_tokens)
                except PeerError as error:
                    self._leave_out(shape, name, error)
                    del live[name]
                    best.pop(name, None)
                    continue
                if repeat < 0:
                    continue
                print(f"{count} requests, run {repeat + 1}: {name} {figures}", flush=True)
                if name not in best or figures.wall_s < best[name].wall_s:
                    best[name] = figures
        return best

    def _add_rows(
        self, shape: str, count: int, live: dict[str, Competitor], best: dict[str, Figures]
    ) -> None:
        ours = best.get(OURS)
        weights = num_linear_weights(self._configs[shape])
        for name, figures in best.items():
            share = floor_share(
                weights * live[name].subject.bytes_per_weight,
                self._read_bytes_per_s[shape],
                figures.tpot_mean_s,
            )
            self._rows.append(
                Row(
                    shape=shape,
                    concurrency=count,
                    subject=name,
                    figures=figures,
                    ours_is=ours.tokens_per_s / figures.tokens_per_s if ours else None,
                    floor_share=share if count == 1 else None,
                    startup_s=live[name].startup_s,
                    **live[name].memory(),
                )
            )

    def _leave_out(self, shape: str, name: str, error: PeerError) -> None:
        self._absent[shape][name] = str(error)
        print(f"{name} is left out: {error}", flush=True)


def _written(shape: str, checkpoint: Path) -> Mapping[str, Any]:
    """Write the shape's checkpoint if it is not there; return its configuration."""
    if shape != REAL:
        config = RANDOM[shape]
        recipe = f"seed 0, {json.dumps(dict(config))}"
        cached_folder(checkpoint, recipe, partial(write_checkpoint, checkpoint, config))
        return config
    try:
        file = real_model_file(os.environ)
    except UnknownModelError as error:
        raise SystemExit(str(error)) from error
    config = real_model_config(file)
    recipe = f"{file} of {file.stat().st_size} bytes, {json.dumps(config)}"
    cached_folder(checkpoint, recipe, partial(write_real_checkpoint, checkpoint, file, config))
    return config


def _run(competitor: Competitor, prompts: Prompts, num_tokens: int) -> Figures:
    timeline = competitor.run(prompts, num_tokens)
    if [len(times) for times in timeline.times_s] != [num_tokens] * len(prompts):
        raise PeerError(f"did not deliver {num_tokens} tokens for each request")
    return Figures.of(timeline.start_s, timeline.times_s)


def _gate(place: Place, config: Mapping[str, Any]) -> list[list[int]]:
    """Return transformers' float32 tokens; refuse to measure if ours are others."""
    prompts = _gate_prompts(config)
    catalogue = subjects()
    tokens: dict[str, list[list[int]]] = {}
    for name in (OURS, "generate"):
        with Competitor(name, catalogue[name], place, dtype="float32") as competitor:
            tokens[name] = competitor.run(prompts, GATE_TOKENS).token_ids
    if tokens[OURS] != tokens["generate"]:
        raise SystemExit("gate: tokens differ from transformers' in float32, no speed is shown")
    print("gate: float32 tokens agree with transformers", flush=True)
    return tokens["generate"]


def _gate_prompts(config: Mapping[str, Any]) -> Prompts:
    return _prompts(GATE_PROMPTS, 97, config, length=32)


def _prompts(
    count: int, seed: int, config: Mapping[str, Any], length: int = PROMPT_TOKENS
) -> Prompts:
    rng = random.Random(f"{count} {seed}")
    return [[rng.randrange(3, config["vocab_size"]) for _ in range(length)] for _ in range(count)]


if __name__ == "__main__":
    main()
