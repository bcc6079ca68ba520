"""First-token and per-token times of the whole stack over HTTP.

    python -m bench.service [--rates 11.6 34.8] [--seconds 60] [--concurrency 1 2 4 8] [--quick]

Starts `infermesh up`. Requests of 30 words, up to 24 tokens out, arrive open-loop: a Poisson
process drawn beforehand, and a request counts from when it was due. Then closed-loop clients, and a
search for the largest rate whose p99 stay below 500 ms to the first token and 50 ms for each
further one. Every request is new to every cache. With `--ignore-eos` all answers have 24 tokens. A
level below the processor's own is asked for as for a stack:

    OPENBLAS_CORETYPE=Haswell ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 \
      INFERMESH_GENERATOR_CPU_LEVEL=avx2 python -m bench.service

Writes bench/results/service.json, an entry for each level.
"""

import argparse
import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.common.machine import describe
from bench.common.stack import ROOT, RunningStack, running_stack
from bench.service.arrivals import poisson
from bench.service.figures import HEADING, Figures
from bench.service.load import Load, run
from bench.service.processes import Processes
from bench.service.prompts import Asked
from bench.service.search import largest
from services.generator.backend.cpu.native import levels

RESULT = ROOT / "bench" / "results" / "service.json"
LEVEL = "INFERMESH_GENERATOR_CPU_LEVEL"
MAX_TOKENS = 24
# a million a day, and three times that
RATES = (11.6, 34.8)
CONCURRENCY = (1, 2, 4, 8, 16, 32, 64, 128)
TTFT_LIMIT_S, TPOT_LIMIT_S = 0.5, 0.05
SEARCH_RATIO = 1.06
# prompts of one run, of which none is in another
PROMPTS_OF_A_RUN = 50_000
WARM_UP_PER_S, WARM_UP_S = 10.0, 3.0


class Subject:
    """A running stack under one load after the other."""

    def __init__(self, stack: RunningStack, model: str, *, ignore_eos: bool) -> None:
        self._stack = stack
        self._asked = Asked(model, MAX_TOKENS, ignore_eos)
        self._processes = Processes(stack.pid)
        self._firsts = itertools.count(0, PROMPTS_OF_A_RUN)

    def at_rate(self, rate_per_s: float, duration_s: float) -> Figures:
        """Measure an open loop."""
        due_s = poisson(rate_per_s, duration_s, seed=next(self._firsts))
        return self._measured(due_s=tuple(due_s))

    def at_concurrency(self, concurrency: int, duration_s: float) -> Figures:
        """Measure a closed loop."""
        return self._measured(concurrency=concurrency, duration_s=duration_s)

    def _measured(self, **how: Any) -> Figures:
        stack, first = self._stack, next(self._firsts)
        before = self._processes.used_s()
        report = run(Load(stack.url, stack.key, self._asked, first, **how))
        after = self._processes.used_s()
        return Figures.of(report, {name: after[name] - before[name] for name in after})


def measure(subject: Subject, options: argparse.Namespace) -> dict[str, Any]:
    """Run everything that is asked for, and print it."""
    subject.at_rate(WARM_UP_PER_S, WARM_UP_S)
    print(f"{'':>14}{HEADING}")
    results: dict[str, Any] = {"rates": [], "concurrency": [], "search": []}
    for rate, _ in itertools.product(options.rates, range(options.repeats)):
        figures = subject.at_rate(rate, options.seconds)
        results["rates"].append({"requests_per_s": rate, **_shown(f"{rate:.1f}/s", figures)})
    for concurrency in options.concurrency:
        figures = subject.at_concurrency(concurrency, options.sweep_seconds)
        entry = {"clients": concurrency, **_shown(f"{concurrency} clients", figures)}
        results["concurrency"].append(entry)
    if options.search_tries:
        results["largest_requests_per_s"] = _search(subject, options, results["search"])
    return results


def _search(subject: Subject, options: argparse.Namespace, entries: list[dict[str, Any]]) -> float:
    def meets(rate: float) -> bool:
        figures = subject.at_rate(rate, options.search_seconds)
        entries.append({"requests_per_s": rate, **_shown(f"try {rate:.1f}/s", figures)})
        return figures.meets(TTFT_LIMIT_S, TPOT_LIMIT_S)

    rate = largest(meets, max(options.rates), SEARCH_RATIO, options.search_tries)
    limits = f"TTFT p99 < {TTFT_LIMIT_S * 1e3:.0f} ms and TPOT p99 < {TPOT_LIMIT_S * 1e3:.0f} ms"
    print(f"largest rate with {limits}: {rate:.1f}/s")
    return rate


def _shown(name: str, figures: Figures) -> dict[str, Any]:
    print(f"{name:>14}{figures.line()}")
    print(
        f"{'':>14}{figures.used()}; {figures.tokens_per_request:.1f} tokens a request;"
        f" cached {figures.cached_share:.1%} of prompts, {figures.num_cache_hits} answers;"
        f" late p99 {figures.late_p99_s * 1e3:.1f} ms",
        flush=True,
    )
    return figures.fields()


def level() -> str:
    """Return the level that the stack's generator serves with."""
    best = levels.available()[-1].name if levels.available() else levels.TORCH
    return os.environ.get(LEVEL) or best


def written(path: Path, name: str, result: dict[str, Any]) -> None:
    """Put a level's result in the file, beside those of other levels."""
    results = json.loads(path.read_text()) if path.exists() else {}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**results, name: result}, indent=1) + "\n")


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options; `--quick` shortens everything to see that it works."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "infermesh-tiny")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="requests a second")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each rate")
    parser.add_argument("--repeats", type=int, default=1, help="of each rate")
    parser.add_argument("--concurrency", type=int, nargs="*", default=CONCURRENCY)
    parser.add_argument("--sweep-seconds", type=float, default=10.0, help="of each concurrency")
    parser.add_argument("--search-seconds", type=float, default=20.0, help="of each try")
    parser.add_argument("--search-tries", type=int, default=8, help="0: no search")
    parser.add_argument("--ignore-eos", action="store_true", help=f"{MAX_TOKENS} tokens always")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--quick", action="store_true", help="seconds in all, figures mean nothing")
    options = parser.parse_args(given)
    if options.quick:
        options.rates, options.concurrency, options.search_tries = (5.0,), (1, 2), 1
        options.seconds = options.sweep_seconds = options.search_seconds = 1.0
    return options


def main() -> None:
    """Run, print, write."""
    options = arguments()
    model = options.model.resolve()
    print(f"{model.name} at {level()}")
    with running_stack(model) as stack:
        results = measure(Subject(stack, model.name, ignore_eos=options.ignore_eos), options)
    origin = {**describe(), "level": level(), "model": model.name}
    written(options.output, level(), {**origin, **results})


if __name__ == "__main__":
    main()
