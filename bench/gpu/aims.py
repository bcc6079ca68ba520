"""Each figure beside what it should be."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bench.gpu.engine.shapes import DECODE_AIMS
from bench.gpu.parts import OURS, PEER

WORKLOAD_AIM = 5.0


@dataclass(frozen=True)
class Aim:
    """`value` should be at least `aim`, both shares or both ratios; None where there is none.

    `why` says then why not.
    """

    figure: str
    unit: str
    aim: float
    value: float | None
    why: str = ""

    @property
    def is_met(self) -> bool:
        """Whether it was measured and is enough."""
        return self.value is not None and self.value >= self.aim

    def cells(self) -> list[str]:
        """Return one text per column of the table."""
        verdict = "met" if self.is_met else "missed"
        if self.value is None:
            return [self.figure, "", self._told(self.aim), self.why]
        return [self.figure, self._told(self.value), self._told(self.aim), verdict]

    def _told(self, value: float) -> str:
        told = f"{value:.2f}x" if self.unit == "x" else f"{value:.0%}"
        return f"{told} {self.unit}".removesuffix(" x")


def aims(rows: Iterable[Mapping[str, Any]]) -> list[Aim]:
    """Return every figure that has an aim, in the rows' order."""
    listed = list(rows)
    found = [
        aim
        for row in listed
        for aim in {"kernel": _kernel, "decode": _decode}.get(row["kind"], _nothing)(row)
    ]
    return [*found, *_workload(listed)]


def table(found: Iterable[Aim]) -> str:
    """Return aligned columns for a terminal."""
    lines = [["figure", "is", "aim", ""], *(aim.cells() for aim in found)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    widths[-1] = 0
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _kernel(row: Mapping[str, Any]) -> Iterator[Aim]:
    """Yield its share of the ceiling, and its speed over the faster of torch's two."""
    name = str(row["name"])
    if "failed" in row:
        yield Aim(name, "x", 1.0, None, f"failed: {row['failed']}")
        return
    if row["aim"] is not None:
        yield Aim(name, f"of {row['of']}", row["aim"], row["share"])
    others = [row[key] for key in ("torch_us", "compiled_us") if key in row]
    if others:
        yield Aim(f"{name}, over torch", "x", 1.0, min(others) / row["us"])
    else:
        yield Aim(f"{name}, over torch", "x", 1.0, None, f"torch failed: {row['torch_failed']}")


def _decode(row: Mapping[str, Any]) -> Iterator[Aim]:
    aim = DECODE_AIMS.get((row["shape"], row["batch"]))
    if aim is not None:
        yield Aim(str(row["name"]), "of the floor", aim, row.get("share"), str(row.get("failed")))


def _workload(rows: Iterable[Mapping[str, Any]]) -> Iterator[Aim]:
    sides = {row["engine"]: row for row in rows if row["kind"] == "workload"}
    if OURS not in sides or PEER not in sides:
        return
    name = f"{sides[OURS]['name']} over {PEER}"
    without = [row for row in (sides[OURS], sides[PEER]) if "tokens_per_s" not in row]
    if without:
        why = without[0].get("failed") or without[0].get("absent")
        yield Aim(name, "x", WORKLOAD_AIM, None, str(why))
    else:
        ratio = sides[OURS]["tokens_per_s"] / sides[PEER]["tokens_per_s"]
        yield Aim(name, "x", WORKLOAD_AIM, ratio)


def _nothing(row: Mapping[str, Any]) -> Iterator[Aim]:
    return iter(())
