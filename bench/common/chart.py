"""A line chart over two logarithmic axes, as SVG text."""

import math
from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import NamedTuple

_WIDTH, _HEIGHT = 760, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 185, 40, 55


class Line(NamedTuple):
    """One curve; its points are positive and sorted by x."""

    label: str
    colour: str
    is_dashed: bool
    points: Sequence[tuple[float, float]]


def log_chart(title: str, x_title: str, y_title: str, lines: Sequence[Line]) -> str:
    """Return the chart; x is a share and labelled in percent."""
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    to_x = _scale(min(xs), max(xs), _LEFT, _WIDTH - _RIGHT)
    to_y = _scale(min(ys), max(ys), _HEIGHT - _BOTTOM, _TOP)
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        _text(middle, 22, title, 'text-anchor="middle" font-size="15"'),
        _text(middle, _HEIGHT - 12, x_title, 'text-anchor="middle"'),
        _text(
            0,
            0,
            y_title,
            f'text-anchor="middle" transform="translate(16 {_HEIGHT / 2}) rotate(-90)"',
        ),
    ]
    for tick in _ticks(min(xs), max(xs)):
        parts.append(_rule(to_x(tick), _TOP, to_x(tick), _HEIGHT - _BOTTOM))
        label = f"{tick * 100:g} %"
        parts.append(_text(to_x(tick), _HEIGHT - _BOTTOM + 18, label, 'text-anchor="middle"'))
    for tick in _ticks(min(ys), max(ys)):
        parts.append(_rule(_LEFT, to_y(tick), _WIDTH - _RIGHT, to_y(tick)))
        parts.append(_text(_LEFT - 8, to_y(tick) + 4, f"{tick:g}", 'text-anchor="end"'))
    for row, line in enumerate(lines):
        dash = ' stroke-dasharray="5 4"' if line.is_dashed else ""
        style = f'fill="none" stroke="{line.colour}" stroke-width="2"{dash}'
        points = " ".join(f"{to_x(x):.1f},{to_y(y):.1f}" for x, y in line.points)
        parts.append(f'<polyline points="{points}" {style}/>')
        parts += [
            f'<circle cx="{to_x(x):.1f}" cy="{to_y(y):.1f}" r="2.5" fill="{line.colour}"/>'
            for x, y in line.points
        ]
        left, top = _WIDTH - _RIGHT + 12, _TOP + 12 + 20 * row
        parts.append(f'<line x1="{left}" y1="{top}" x2="{left + 24}" y2="{top}" {style}/>')
        parts.append(_text(left + 30, top + 4, line.label, ""))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _scale(low: float, high: float, first: float, last: float) -> Callable[[float], float]:
    span = math.log(high / low)
    return lambda value: first + math.log(value / low) / span * (last - first)


def _ticks(low: float, high: float) -> Iterator[float]:
    for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        for digit in (1, 2, 5):
            if low <= digit * 10.0**power <= high:
                yield digit * 10.0**power


def _text(x: float, y: float, text: str, style: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="#d0d7de"/>'
