"""`bench.gpu` as a whole: what fails is told and the rest goes on."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.gpu.aims import aims, table
from bench.gpu.cases.case import Call, Case, relative_error
from bench.gpu.kernel_row import MAX_SETS, Ceilings, measured, num_sets
from bench.gpu.parts import Plan, engine_rows, kernel_rows
from bench.gpu.record import Record
from bench.gpu.row_text import line
from bench.gpu.worker_client import WorkerClient

CEILINGS = Ceilings(1e9, 1e9)
SPEEDS = {"copy_bytes_per_s": 1e9, "product_flops_per_s": 1e9}


def case(ours: Callable[[torch.Tensor], Any], other: Callable[[torch.Tensor], Any]) -> Case:
    def make() -> tuple[Call, "partial[Any]"]:
        x = torch.arange(1.0, 9.0)
        return partial(ours, x), partial(other, x)

    return Case("doubling", make, num_bytes=64.0, num_flops=8.0, aim=0.5)


def broken(x: torch.Tensor) -> torch.Tensor:
    raise ValueError("out of order\nand a second line")


def test_a_kernel_is_timed_beside_torch() -> None:
    """Its share is of the ceiling that it is nearer to, here of the bandwidth."""
    row = measured(case(lambda x: x.add_(x), lambda x: 2 * x), "cpu", 2, CEILINGS)
    assert row["error"] == 0.0
    assert row["share"] == pytest.approx(64 / (row["us"] / 1e6) / 1e9)
    assert (row["of"], row["aim"], row["is_recorded"]) == ("bandwidth", 0.5, False)
    assert row["torch_us"] > 0.0


def test_a_wrong_kernel_is_not_timed() -> None:
    """Nor is one whose result is not a number."""
    for wrong in (lambda x: 2.1 * x, lambda x: x / 0.0 * 0.0):
        row = measured(case(wrong, lambda x: 2 * x), "cpu", 2, CEILINGS)
        assert "differs from torch" in row["failed"]
        assert "us" not in row


def test_the_worst_of_several_results_counts() -> None:
    """A kernel that writes twice is wrong if either is."""
    right, wrong = torch.ones(4), 2 * torch.ones(4)
    assert relative_error((right, wrong), (right, right)) == 1.0


def test_torch_may_fail_when_a_kernel_does_not() -> None:
    """Ours keeps its time, and the compiled one says why it has none."""
    subject = case(lambda x: 2 * x, lambda x: 2 * x)

    def make() -> tuple[Call, "partial[Any]"]:
        ours, _ = subject.make()
        return ours, partial(Sometimes(), torch.arange(1.0, 9.0))

    row = measured(Case("doubling", make, 64.0), "cpu", 2, CEILINGS)
    assert row["us"] > 0.0
    assert row["torch_failed"] == "ValueError: out of order"
    assert "torch failed" in table(aims([{"kind": "kernel", "name": "doubling", **row}]))


class Sometimes:
    """Right for the gate, broken afterwards."""

    def __init__(self) -> None:
        self._num_calls = 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self._num_calls += 1
        return 2 * x if self._num_calls == 1 else broken(x)


def test_sets_of_inputs_are_twice_the_cache() -> None:
    """But two at least, and not more than can be made in a while."""
    assert num_sets(1e6, 50 * 10**6) == 101
    assert num_sets(1e9, 50 * 10**6) == 2
    assert num_sets(10.0, 50 * 10**6) == MAX_SETS


def test_a_worker_that_fails_is_replaced() -> None:
    """A question that raises and one that takes too long are answered, and so is the next."""
    with WorkerClient() as client:
        failed = client.ask({"do": "gate", "shape": "none"}, 60.0)
        assert failed["failed"] == "KeyError: 'none'"
        assert any("worker.py" in each for each in failed["trace"])
        assert client.pid is None
        late = client.ask({"do": "names"}, 0.0)
        assert "took more than" in late["failed"]
        assert client.pid is None
        assert "rms_norm, 8192 x 4096" in client.ask({"do": "names"}, 60.0)["names"]
        assert client.pid is not None


def test_a_kernel_that_fails_does_not_stop_the_others() -> None:
    """Each has its row, in order."""

    def ask(question: Mapping[str, Any], limit_s: float) -> dict[str, Any]:
        if question["do"] == "names":
            return {"names": ["a", "b", "c"]}
        return {"failed": "no"} if question["name"] == "b" else {"us": 1.0}

    rows = list(kernel_rows(ask, Plan(), SPEEDS))
    assert [(row["name"], "failed" in row) for row in rows] == [
        ("a", False),
        ("b", True),
        ("c", False),
    ]


def test_no_speed_is_shown_of_a_shape_whose_gate_fails() -> None:
    """The other shape is measured, and so is the peer."""
    asked: list[str] = []

    def ask(question: Mapping[str, Any], limit_s: float) -> dict[str, Any]:
        asked.append(question["do"])
        is_wrong = question["do"] == "gate" and question["shape"] == "qwen3-0.6b"
        return {"failed": "another token"} if is_wrong else {"tokens_per_s": 1.0}

    rows = {row["name"]: row for row in engine_rows(ask, Plan(batches=(1,)), SPEEDS)}
    assert asked.count("gate") == 4
    assert rows["decode, qwen3-0.6b, batch 1"]["failed"] == "not timed: the gate failed"
    assert rows["workload, qwen3-0.6b, infermesh"]["failed"] == "not timed: the gate failed"
    assert rows["decode, llama-3-8b, batch 1"]["tokens_per_s"] == 1.0
    assert rows["workload, qwen3-0.6b, transformers"]["tokens_per_s"] == 1.0


def speeds() -> Iterator[dict[str, Any]]:
    kernel = {"kind": "kernel", "of": "bandwidth", "us": 10.0}
    yield {**kernel, "name": "norm", "aim": 0.85, "share": 0.9, "torch_us": 30, "compiled_us": 9}
    yield {"kind": "kernel", "name": "rope", "failed": "differs from torch by 1"}
    decode = {"kind": "decode", "shape": "llama-3-8b"}
    yield {**decode, "name": "decode 1", "batch": 1, "share": 0.59}
    yield {**decode, "name": "decode 8", "batch": 8, "share": 0.1}
    workload = {"kind": "workload", "name": "ours"}
    yield {**workload, "engine": "infermesh", "tokens_per_s": 600.0}
    yield {**workload, "engine": "transformers", "tokens_per_s": 100.0}


def test_figures_are_held_against_their_aims() -> None:
    """A kernel against the faster of torch's two; what failed misses its aim with its reason."""
    found = aims(speeds())
    assert [(each.value, each.aim, each.is_met) for each in found] == [
        (0.9, 0.85, True),
        (pytest.approx(0.9), 1.0, False),
        (None, 1.0, False),
        (0.59, 0.60, False),
        (6.0, 5.0, True),
    ]
    assert "differs from torch by 1" in table(found)


def test_an_absent_peer_is_no_failure() -> None:
    """The comparison says why there is none."""
    rows = [*speeds()][:-1]
    absent = {"kind": "workload", "name": "theirs", "engine": "transformers", "absent": "not here"}
    assert line(absent).endswith("not measured: not here")
    assert aims([*rows, absent])[-1].cells()[-1] == "not here"


def test_a_part_keeps_what_the_other_found(tmp_path: Path) -> None:
    """Every row is on disk at once, as JSON that others read too."""
    path = tmp_path / "gpu.json"
    first = Record(path)
    first.begin("kernels", {"commit": "a"})
    first.add("kernels", {"error": float("inf")})
    second = Record(path)
    second.begin("engine", {"commit": "b"})
    parts = json.loads(path.read_text(), parse_constant=pytest.fail)["parts"]
    assert parts == {
        "kernels": {"commit": "a", "rows": [{"error": "inf"}]},
        "engine": {"commit": "b", "rows": []},
    }


def test_the_command_runs_on_a_cpu(tmp_path: Path) -> None:
    """The engine's part, without the peer; it writes what it prints."""
    output = tmp_path / "gpu.json"
    options = f"--device cpu --shapes tiny --batches 2 --quick --only decode --output {output}"
    done = subprocess.run(
        [sys.executable, "-m", "bench.gpu", *options.split()],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 0, done.stderr
    part = json.loads(output.read_text())["parts"]["engine"]
    names = ["gate, tiny, float32", "gate, tiny, bfloat16", "decode, tiny, batch 2"]
    assert [row["name"] for row in part["rows"]] == names
    assert all(name in done.stdout for name in names)
    assert part["command"].startswith("python -m bench.gpu --device cpu")
    assert part["rows"][-1]["tokens_per_s"] > 0.0
