"""What is asked of the device, part by part; each yields its rows as they come."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.gpu.worker_client import Ask

Row = dict[str, Any]
CASE_LIMIT_S, GATE_LIMIT_S, DECODE_LIMIT_S, WORKLOAD_LIMIT_S = 300.0, 600.0, 600.0, 1800.0
GATE_DTYPES = ("float32", "bfloat16")
OURS, PEER = "infermesh", "transformers"


@dataclass(frozen=True)
class Plan:
    """How much is measured; `only` keeps the rows whose names have one of these in them."""

    device: str = "cuda"
    shapes: Sequence[str] = ("qwen3-0.6b", "llama-3-8b")
    batches: Sequence[int] = (1, 8, 64, 256)
    repeats: int = 20
    only: Sequence[str] = ()
    gate_lengths: Sequence[int] = (1, 17, 64, 130, 300, 515)
    decode: Mapping[str, int] = field(default_factory=dict)
    workload: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def quick(cls) -> "Plan":
        """Return one that shows whether everything works."""
        return cls(
            batches=(1, 8),
            repeats=5,
            gate_lengths=(1, 17, 130),
            decode={"prompt_tokens": 128, "warm_steps": 4, "steps": 16, "profiled_steps": 4},
            workload={"num_requests": 32, "min_tokens": 32, "max_tokens": 128},
        )

    def wants(self, name: str) -> bool:
        """Return whether a row is measured."""
        return not self.only or any(part in name for part in self.only)

    def fields(self) -> dict[str, Any]:
        """Return everything flat, for JSON."""
        return asdict(self)


def kernel_rows(ask: Ask, plan: Plan, ceilings: Mapping[str, Any]) -> Iterator[Row]:
    """Yield a row per kernel and shape."""
    listed = ask({"do": "names"}, CASE_LIMIT_S)
    if "failed" in listed:
        yield {"kind": "kernel", "name": "all kernels", **listed}
    question = {
        "do": "case",
        "device": plan.device,
        "repeats": plan.repeats,
        "copy_bytes_per_s": ceilings["copy_bytes_per_s"],
        "product_flops_per_s": ceilings["product_flops_per_s"],
    }
    for name in filter(plan.wants, listed.get("names", ())):
        answer = ask({**question, "name": name}, CASE_LIMIT_S)
        yield {"kind": "kernel", "name": name, **answer}


def engine_rows(ask: Ask, plan: Plan, ceilings: Mapping[str, Any]) -> Iterator[Row]:
    """Yield gates, then decodes, then the workload; where a shape's gate fails it is not timed."""
    rows = [*_decodes(plan, ceilings["copy_bytes_per_s"]), *_workloads(plan)]
    wanted = [row for row in rows if plan.wants(row["name"])]
    shut: set[str] = set()
    for shape in dict.fromkeys(row["shape"] for row in wanted):
        for dtype in GATE_DTYPES:
            row = {"kind": "gate", "name": f"gate, {shape}, {dtype}", "shape": shape}
            question = {
                "do": "gate",
                "device": plan.device,
                "shape": shape,
                "dtype": dtype,
                "lengths": plan.gate_lengths,
            }
            answer = ask(question, GATE_LIMIT_S)
            if "failed" in answer:
                shut.add(shape)
            yield {**row, **answer}
    for row in wanted:
        question, limit_s = row.pop("question"), row.pop("limit_s")
        if row["shape"] in shut and row.get("engine") != PEER:
            yield {**row, "failed": "not timed: the gate failed"}
        else:
            yield {**row, **ask({**question, "device": plan.device}, limit_s)}


def _decodes(plan: Plan, copy_bytes_per_s: float) -> Iterator[Row]:
    for shape in plan.shapes:
        for batch in plan.batches:
            question = {
                "do": "decode",
                "shape": shape,
                "plan": {**plan.decode, "batch": batch},
                "batches": plan.batches,
                "copy_bytes_per_s": copy_bytes_per_s,
            }
            yield {
                "kind": "decode",
                "name": f"decode, {shape}, batch {batch}",
                "shape": shape,
                "batch": batch,
                "question": question,
                "limit_s": DECODE_LIMIT_S,
            }


def _workloads(plan: Plan) -> Iterator[Row]:
    """Yield ours and the peer's, both of the first shape."""
    shape = plan.shapes[0]
    for engine in (OURS, PEER):
        question = {
            "do": "workload",
            "engine": engine,
            "shape": shape,
            "workload": dict(plan.workload),
        }
        yield {
            "kind": "workload",
            "name": f"workload, {shape}, {engine}",
            "shape": shape,
            "engine": engine,
            "question": question,
            "limit_s": WORKLOAD_LIMIT_S,
        }
