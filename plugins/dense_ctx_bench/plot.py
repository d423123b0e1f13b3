"""Scatter plots as SVG: a colour for each backbone, a shape for each head, bars for the spread over seeds."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass

WIDTH, HEIGHT = 420, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 14, 14, 52
COLOURS = ("#1f6fb4", "#d9660a", "#2c9546", "#b3262e", "#7d54ad", "#7a5347", "#c9559f", "#5f6670", "#96961a", "#1299a8")
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "flag")


@dataclass(frozen=True)
class Point:
    """(x, y) with their standard deviations, of one backbone and head."""

    x: float
    y: float
    backbone: str
    head: str
    dx: float = 0.0
    dy: float = 0.0


def scatter(points: list[Point], x: str, y: str, backbones: list[str], heads: list[str]) -> str:
    """An SVG element; where the pointer rests on a point its name and numbers show. Works alone as a file, too.

    Args:
        x, y: what the axes say.
        backbones, heads: all there are, in the order of `legend`'s colours and shapes.
    """
    across = _ticks([p.x + s * p.dx for p in points for s in (-1, 1)])
    up = _ticks([p.y + s * p.dy for p in points for s in (-1, 1)])
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def place(value: float, ticks: list[float], first: float, last: float) -> float:
        return first + (last - first) * (value - ticks[0]) / (ticks[-1] - ticks[0])

    parts = []
    for value in across:
        at = place(value, across, LEFT, right)
        parts.append(f'<path d="M{at:.1f} {TOP}V{bottom}" stroke="#e4e6e8"/>')
        parts.append(
            f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle" font-size="11">{_number(value)}</text>'
        )
    for value in up:
        at = place(value, up, bottom, TOP)
        parts.append(f'<path d="M{LEFT} {at:.1f}H{right}" stroke="#e4e6e8"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{at + 4:.1f}" text-anchor="end" font-size="11">{_number(value)}</text>')
    parts.append(f'<path d="M{LEFT} {TOP}V{bottom}H{right}" stroke="#8a9096" fill="none"/>')
    for p in points:
        colour = COLOURS[backbones.index(p.backbone) % len(COLOURS)]
        left, top = place(p.x, across, LEFT, right), place(p.y, up, bottom, TOP)
        if p.dx:
            reach = (place(p.x + s * p.dx, across, LEFT, right) for s in (-1, 1))
            parts.append(f'<path d="M{next(reach):.1f} {top:.1f}H{next(reach):.1f}" stroke="{colour}" opacity=".5"/>')
        if p.dy:
            reach = (place(p.y + s * p.dy, up, bottom, TOP) for s in (-1, 1))
            parts.append(f'<path d="M{left:.1f} {next(reach):.1f}V{next(reach):.1f}" stroke="{colour}" opacity=".5"/>')
        name = html.escape(f"{p.backbone} + {p.head}: {p.x:.4g}, {p.y:.4g}")
        parts.append(f"<g>{_mark(heads.index(p.head), left, top, colour)}<title>{name}</title></g>")
    middle = (TOP + bottom) / 2
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" fill="#2b2f33">{"".join(parts)}'
        f'<text x="{(LEFT + right) / 2:.0f}" y="{HEIGHT - 12}" text-anchor="middle" font-size="13">{html.escape(x)}'
        f'</text><text transform="translate(15 {middle:.0f}) rotate(-90)" text-anchor="middle" font-size="13">'
        f"{html.escape(y)}</text></svg>"
    )


def legend(backbones: list[str], heads: list[str]) -> str:
    """An SVG element: the backbones' colours in one column, the heads' shapes in the other."""
    rows = max(len(backbones), len(heads))
    wide = 30 + 7 * max(map(len, backbones), default=0)
    width, height = wide + 40 + 7 * max(map(len, heads), default=0), 20 * rows + 10
    parts = []
    for row, name in enumerate(backbones):
        colour = COLOURS[row % len(COLOURS)]
        parts.append(f'<path d="M4 {20 * row + 15}h14" stroke="{colour}" stroke-width="7"/>')
        parts.append(f'<text x="26" y="{20 * row + 19}" font-size="12">{html.escape(name)}</text>')
    for row, name in enumerate(heads):
        parts.append(_mark(row, wide + 12, 20 * row + 15, "#5f6670"))
        parts.append(f'<text x="{wide + 24}" y="{20 * row + 19}" font-size="12">{html.escape(name)}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" fill="#2b2f33">{"".join(parts)}</svg>'
    )


def _mark(head: int, x: float, y: float, colour: str) -> str:
    paths = {
        "square": "m-4.5-4.5h9v9h-9z", "triangle": "m0-5.5 5.5 10h-11z", "diamond": "m0-6 6 6-6 6-6-6z",
        "cross": "m-2-5.5h4v3.5h3.5v4h-3.5v3.5h-4v-3.5h-3.5v-4h3.5z", "flag": "m-5-5 10 5-10 5z",
    }  # fmt: skip
    shape = SHAPES[head % len(SHAPES)]
    style = f'fill="{colour}" fill-opacity=".85" stroke="#fff" stroke-width=".8"'
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" {style}/>'
    return f'<path d="M{x:.1f} {y:.1f}{paths[shape]}" {style}/>'


def _ticks(values: list[float]) -> list[float]:
    """Round numbers, four to eight, from below the least value to above the largest."""
    low, high = min(values), max(values)
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-9):
        low, high = low - 0.1 * max(abs(low), 1e-9), high + 0.1 * max(abs(high), 1e-9)
    margin = 0.04 * (high - low)  # so that no mark is cut in half by the axis
    low, high = low - margin if low < 0 else max(0.0, low - margin), high + margin
    raw = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(raw))
    step = unit * next(factor for factor in (1, 2, 5, 10) if unit * factor >= raw)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * number for number in range(first, last + 1)]


def _number(value: float) -> str:
    return f"{value:.6g}" if abs(value) > 1e-12 else "0"
