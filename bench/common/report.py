"""The comparison in words: a row per shape, concurrency and engine, as text and Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.common.figures import Figures

HEADINGS = (
    "requests",
    "engine",
    "tokens/s",
    "ours is",
    "first token p50 / p99, ms",
    "per token p50 / p99, ms",
    "of the floor",
    "start, s",
    "peak, GiB",
)
BEGIN, END = "<!-- bench.engine: begin -->", "<!-- bench.engine: end -->"


@dataclass(frozen=True)
class Row:
    """One engine's best run at one concurrency.

    `ours_is` is our throughput over this one's; `floor_share` is known for one request alone.
    """

    shape: str
    concurrency: int
    subject: str
    figures: Figures
    ours_is: float | None
    floor_share: float | None
    startup_s: float
    rss_bytes: int
    peak_rss_bytes: int

    def fields(self) -> dict[str, Any]:
        """Return everything flat, for JSON."""
        fields = asdict(self)
        figures = fields.pop("figures")
        return {**fields, **figures}

    def cells(self) -> list[str]:
        """Return one text per heading."""
        each = self.figures
        return [
            str(self.concurrency),
            self.subject,
            f"{each.tokens_per_s:.1f}",
            "" if self.ours_is is None else f"{self.ours_is:.2f}x",
            f"{each.ttft_p50_s * 1e3:.0f} / {each.ttft_p99_s * 1e3:.0f}",
            f"{each.tpot_p50_s * 1e3:.1f} / {each.tpot_p99_s * 1e3:.1f}",
            "" if self.floor_share is None else f"{self.floor_share:.0%}",
            f"{self.startup_s:.1f}",
            f"{self.peak_rss_bytes / 2**30:.2f}",
        ]


def text(rows: Sequence[Row], absent: Mapping[str, Mapping[str, str]]) -> str:
    """Return aligned columns for a terminal, a table per shape."""
    parts = []
    for shape in _shapes(rows, absent):
        table = [list(HEADINGS), *(row.cells() for row in rows if row.shape == shape)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
            for line in table
        ]
        parts += ["", shape, *lines, *_absences(absent.get(shape, {}))]
    return "\n".join(parts)


def markdown(
    rows: Sequence[Row], absent: Mapping[str, Mapping[str, str]], origin: Mapping[str, Any]
) -> str:
    """Return the section that stands between BEGIN and END in the documentation."""
    machine = origin["machine"]
    parts = [
        f"`{origin['command']}` at commit {origin['commit']}, {str(origin['time'])[:10]}, on"
        f" {machine['cores']} cores of {machine['processor']}."
    ]
    for shape in _shapes(rows, absent):
        speed = origin["read_bytes_per_s"].get(shape)
        read = "" if speed is None else f", memory read at {speed / 1e9:.1f} GB/s"
        parts += ["", f"### {shape}{read}", "", _line(HEADINGS)]
        parts.append(_line(["--:" if name != "engine" else "---" for name in HEADINGS]))
        parts += [_line(row.cells()) for row in rows if row.shape == shape]
        absences = _absences(absent.get(shape, {}))
        parts += ["", *(f"- {absence}" for absence in absences)] if absences else []
    return "\n".join(parts)


def placed(document: str, section: str) -> str:
    """Return the document with `section` between its markers; raises ValueError without them."""
    before, found, rest = document.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise ValueError(f"the document has no {BEGIN} followed by {END}")
    return f"{before}{BEGIN}\n{section}\n{END}{after}"


def _shapes(rows: Iterable[Row], absent: Mapping[str, object]) -> list[str]:
    return list(dict.fromkeys([*(row.shape for row in rows), *absent]))


def _absences(reasons: Mapping[str, str]) -> list[str]:
    return [f"{name} was not measured: {reason}" for name, reason in reasons.items()]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
