"""Continuous against static batching: the same engine and model, realistic lengths and arrivals.

    python -m bench.batching [--trace FILE.csv] [--requests 240] [--bounds 2 5] [--model FOLDER]

Lengths and arrivals come from an Azure trace, or from a fit to one; lengths are divided so that
they fit the model's context, arrivals are stretched to a share of the continuous engine's measured
capacity. Static batching collects up to `--size` requests or waits `--patience` seconds, runs them
until all have ended, returns their answers together, then takes the next; that is how servers
batched whole requests. "Streamed" is a kinder form, in which each answer leaves when it ends. What
padding would cost is simulated in neither, which favours both. Time is the CPU time of one thread,
so that other work on the machine counts little, and idle time is skipped. Latency is also given
over the request's output tokens (normalised, as in Yu et al., "Orca", OSDI 2022). A policy's
capacity at a bound is the highest load, by bisection, at which the 99th percentile of the
normalised latency stays within that many times what it is when each request has the engine to
itself.
"""

import argparse
import json
import random
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from bench.common import trace
from bench.common.chart import Line, log_chart
from bench.common.figures import percentile
from bench.common.machine import describe
from bench.common.trace import Visit
from services.generator.engine import Engine, EngineConfig, SamplingParams
from services.generator.loading import load_engine

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "bench" / "results" / "batching.json"
CHART = ROOT / "docs" / "batching.svg"
COLOURS = {"continuous": "#0969da", "static": "#cf222e", "static, streamed": "#bf8700"}
LOADS = (0.25, 0.5, 1.0, 2.0)
# bisection looks at loads of MIN_LOAD * 2 ** (k / 4)
MIN_LOAD, NUM_LOADS, LOADS_PER_DOUBLING = 0.005, 36, 4

HEADER = (
    f"{'policy':<16} {'load':>6} {'requests/s':>10} {'tokens/s':>9} {'p50 s':>7} {'p99 s':>7}"
    f" {'p50 ms/token':>13} {'p99 ms/token':>13}"
)


class Policy(Protocol):
    """When requests that have come are given to the engine."""

    def num_admitted(self, arrivals: Sequence[float], num_live: int, now_s: float) -> int:
        """Return how many of those that wait, by arrival, go to the engine now."""
        ...

    def wakes_s(self, arrivals: Sequence[float]) -> float:
        """Return when an idle engine gets something although nobody new comes."""
        ...

    @property
    def returns_together(self) -> bool:
        """Whether answers leave only when the engine is empty."""
        ...


class Continuous:
    """At once; the engine's scheduler decides the rest."""

    returns_together = False

    def num_admitted(self, arrivals: Sequence[float], num_live: int, now_s: float) -> int:
        return len(arrivals)

    def wakes_s(self, arrivals: Sequence[float]) -> float:
        return float("inf")


@dataclass(frozen=True, slots=True)
class Static:
    """In batches, each of which ends before the next begins."""

    size: int
    patience_s: float
    returns_together: bool

    def num_admitted(self, arrivals: Sequence[float], num_live: int, now_s: float) -> int:
        if num_live or not arrivals:
            return 0
        is_due = len(arrivals) >= self.size or now_s >= self.wakes_s(arrivals)
        return min(len(arrivals), self.size) if is_due else 0

    def wakes_s(self, arrivals: Sequence[float]) -> float:
        return arrivals[0] + self.patience_s if arrivals else float("inf")


class BusyClock:
    """CPU seconds of this process, plus the idle time that was skipped."""

    def __init__(self) -> None:
        self._offset_s = -time.process_time()

    def now_s(self) -> float:
        return time.process_time() + self._offset_s

    def skip_to(self, moment_s: float) -> None:
        self._offset_s += max(0.0, moment_s - self.now_s())


@dataclass(frozen=True, slots=True)
class Figures:
    """What became of one replay. Normalised latencies are seconds per output token."""

    load: float
    offered_per_s: float
    requests_per_s: float
    tokens_per_s: float
    latency_p50_s: float
    latency_p99_s: float
    normalised_p50_s: float
    normalised_p99_s: float


class Replay:
    """An engine and the requests of a trace."""

    def __init__(self, engine: Engine, visits: Sequence[Visit]) -> None:
        self._engine = engine
        self._visits = visits
        self._num_replays = 0

    def run(self, policy: Policy, requests_per_s: float, capacity_per_s: float) -> Figures:
        """Serve all requests at a mean rate; a rate of infinity lets them come all at once."""
        visits = list(self._visits)
        if requests_per_s < float("inf"):
            visits = trace.at_rate(visits, requests_per_s)
        else:
            visits = [visit._replace(arrival_s=0.0) for visit in visits]
        ended_s = self._serve(visits, policy)
        assert len(ended_s) == len(visits), "a request got lost"
        latencies = [ended_s[i] - visit.arrival_s for i, visit in enumerate(visits)]
        normalised = [
            latency / visit.num_output_tokens
            for latency, visit in zip(latencies, visits, strict=True)
        ]
        total_s = max(ended_s.values())
        return Figures(
            requests_per_s / capacity_per_s,
            requests_per_s,
            len(visits) / total_s,
            sum(visit.num_output_tokens for visit in visits) / total_s,
            percentile(latencies, 0.5),
            percentile(latencies, 0.99),
            percentile(normalised, 0.5),
            percentile(normalised, 0.99),
        )

    def _serve(self, visits: Sequence[Visit], policy: Policy) -> dict[int, float]:
        """Return when each request ended."""
        prompts = self._fresh_prompts(visits)
        ended_s: dict[int, float] = {}
        coming, waiting = deque(range(len(visits))), deque[int]()
        num_live = 0
        done: list[int] = []
        clock = BusyClock()
        while len(ended_s) < len(visits):
            now_s = clock.now_s()
            while coming and visits[coming[0]].arrival_s <= now_s:
                waiting.append(coming.popleft())
            arrivals = [visits[index].arrival_s for index in waiting]
            for _ in range(policy.num_admitted(arrivals, num_live, now_s)):
                index = waiting.popleft()
                self._add(index, prompts[index], visits[index].num_output_tokens)
                num_live += 1
            if num_live:
                for output in self._engine.step():
                    if output.finish_reason is not None:
                        done.append(int(output.request_id))
                        num_live -= 1
                if not (policy.returns_together and num_live):
                    ended_s |= dict.fromkeys(done, clock.now_s())
                    done.clear()
            else:
                next_s = visits[coming[0]].arrival_s if coming else float("inf")
                clock.skip_to(min(next_s, policy.wakes_s(arrivals)))
        self._engine.check()
        return ended_s

    def _fresh_prompts(self, visits: Sequence[Visit]) -> list[list[int]]:
        self._num_replays += 1
        rng = random.Random(self._num_replays)
        vocab = range(10, self._engine.model_config.vocab_size)
        return [rng.choices(vocab, k=visit.num_prompt_tokens) for visit in visits]

    def _add(self, index: int, prompt: list[int], num_output_tokens: int) -> None:
        params = SamplingParams(num_output_tokens, temperature=0, ignore_eos=True)
        self._engine.add(str(index), prompt, params)


def highest_index(is_met: Callable[[int], bool], count: int) -> int:
    """Return the highest index below `count` where a falling condition holds, -1 for none."""
    low, high = -1, count
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_met(middle) else (low, middle)
    return low


class Searches:
    """Finds what each policy carries within a bound; remembers every load it has replayed."""

    def __init__(
        self, replay: Replay, policies: Mapping[str, Policy], capacity_per_s: float
    ) -> None:
        self.policies = policies
        self._replay = replay
        self._capacity_per_s = capacity_per_s
        self._known: dict[tuple[str, float], Figures] = {}

    def at(self, name: str, load: float) -> Figures:
        """Return the figures at a share of the capacity."""
        if (name, load) not in self._known:
            rate = load * self._capacity_per_s
            figures = self._replay.run(self.policies[name], rate, self._capacity_per_s)
            self._known[name, load] = figures
            print(_row(name, figures), flush=True)
        return self._known[name, load]

    def within(self, name: str, bound_s: float) -> Figures | None:
        """Return the figures at the highest load whose p99 normalised latency is in the bound."""

        def load(index: int) -> float:
            return float(MIN_LOAD * 2 ** (index / LOADS_PER_DOUBLING))

        found = highest_index(
            lambda index: self.at(name, load(index)).normalised_p99_s <= bound_s, NUM_LOADS
        )
        return self.at(name, load(found)) if found >= 0 else None

    def of(self, name: str) -> list[Figures]:
        """Return all that was measured of a policy, by load."""
        found = [figures for (known, _), figures in self._known.items() if known == name]
        return sorted(found, key=lambda figures: figures.load)


def main() -> None:
    """Measure the capacity, the loads and the bounds; print, write, draw."""
    options = _parse_options()
    config = EngineConfig(
        options.model, max_num_seqs=options.size, kv_cache_bytes=2**29, num_threads=1
    )
    engine = load_engine(config, clock=time.process_time)
    visits = (
        trace.read(options.trace, options.requests)
        if options.trace
        else trace.conversation(options.requests)
    )
    visits = trace.shrink(visits, options.divisor, engine.max_request_tokens)
    replay = Replay(engine, visits)
    Replay(engine, visits[:50]).run(Continuous(), float("inf"), 1.0)  # warms up
    capacity_per_s = replay.run(Continuous(), float("inf"), 1.0).requests_per_s
    print(f"capacity {capacity_per_s:.2f} requests/s, continuous, all at once")
    print(HEADER)
    policies: dict[str, Policy] = {
        "continuous": Continuous(),
        "static": Static(options.size, options.patience, returns_together=True),
        "static, streamed": Static(options.size, options.patience, returns_together=False),
    }
    searches = Searches(replay, policies, capacity_per_s)
    for load in LOADS:
        for name in policies:
            searches.at(name, load)
    alone_s = searches.at("continuous", MIN_LOAD).normalised_p99_s
    carried = [_carried(searches, policies, times, times * alone_s) for times in options.bounds]
    _report(options, visits, capacity_per_s, alone_s, searches, carried)


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--trace", type=Path, help="a CSV of arrivals and lengths")
    parser.add_argument("--requests", type=int, default=240)
    parser.add_argument("--divisor", type=int, default=8, help="of the trace's lengths")
    parser.add_argument("--size", type=int, default=32, help="of a static batch, and of ours")
    parser.add_argument("--patience", type=float, default=0.05, help="seconds for a batch to fill")
    parser.add_argument("--bounds", type=float, nargs="+", default=[2.0, 5.0])
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "infermesh-tiny")
    return parser.parse_args()


def _carried(
    searches: Searches, policies: Iterable[str], times: float, bound_s: float
) -> dict[str, Any]:
    """Describe what each policy carries within a bound, and how much more ours does."""
    found = {name: searches.within(name, bound_s) for name in policies}
    rates = {name: each.offered_per_s if each else 0.0 for name, each in found.items()}
    told = ", ".join(f"{name} {rate:.2f}" for name, rate in rates.items())
    print(f"within {times:g} x alone = {bound_s * 1e3:.1f} ms/token: {told} requests/s")
    return {
        "bound": times,
        "bound_s": bound_s,
        **{name: asdict(each) if each else None for name, each in found.items()},
        "ratios": {
            name: rates["continuous"] / rate
            for name, rate in rates.items()
            if rate and name != "continuous"
        },
    }


def _row(name: str, figures: Figures) -> str:
    return (
        f"{name:<16} {figures.load:>6.1%} {figures.requests_per_s:>10.2f}"
        f" {figures.tokens_per_s:>9.1f} {figures.latency_p50_s:>7.2f} {figures.latency_p99_s:>7.2f}"
        f" {figures.normalised_p50_s * 1e3:>13.1f} {figures.normalised_p99_s * 1e3:>13.1f}"
    )


def _report(
    options: argparse.Namespace,
    visits: Sequence[Visit],
    capacity_per_s: float,
    alone_s: float,
    searches: Searches,
    carried: Sequence[dict[str, Any]],
) -> None:
    measured = {name: searches.of(name) for name in searches.policies}
    result = {
        **describe(),
        "options": {
            **vars(options),
            "model": options.model.name,
            "trace": options.trace.name if options.trace else "lognormal fit",
        },
        "mean_prompt_tokens": statistics.mean(visit.num_prompt_tokens for visit in visits),
        "mean_output_tokens": statistics.mean(visit.num_output_tokens for visit in visits),
        "capacity_requests_per_s": capacity_per_s,
        "alone_normalised_p99_s": alone_s,
        "carried": carried,
        "measured": {name: [asdict(each) for each in found] for name, found in measured.items()},
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    lines: list[Line] = []
    for name, found in measured.items():
        high = [(each.load, each.normalised_p99_s * 1e3) for each in found]
        middle = [(each.load, each.normalised_p50_s * 1e3) for each in found]
        lines.append(Line(f"{name}, p99", COLOURS[name], False, high))
        lines.append(Line(f"{name}, p50", COLOURS[name], True, middle))
    CHART.write_text(
        log_chart(
            "Latency per output token over load",
            "load, as a share of the continuous engine's capacity",
            "ms per output token",
            lines,
        )
    )
    print(f"written to {RESULT} and {CHART}")


if __name__ == "__main__":
    main()
