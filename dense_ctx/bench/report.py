"""The records of a benchmark as one HTML page: the table, speed against score, and task against task (inline SVG)."""

from __future__ import annotations

import html
import itertools
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from .table import markdown, row_name

Record = Mapping[str, Any]
Point = tuple[float, float, str]

WIDTH, HEIGHT, MARGIN = 420, 320, 56
STYLE = "body{font:15px sans-serif;margin:2em}td,th{padding:.2em .8em;text-align:right}td:first-child{text-align:left}"


def page(records: Iterable[Record]) -> str:
    """A page that needs no other file. Cells that failed are in the table and in no plot."""
    found = list(records)
    done = [record for record in found if record["status"] == "done"]
    means: dict[str, dict[str, float]] = {}
    for task, group in _grouped(done, lambda r: r["settings"]["task"]["objective"]).items():
        for name, seeds in _grouped(group, row_name).items():
            means.setdefault(task, {})[name] = statistics.mean(record["value"] for record in seeds)
    labels = {r["settings"]["task"]["objective"]: f"{r['settings']['task']['objective']}, {r['metric']}" for r in done}
    plots = []
    for task, scores in means.items():
        group = [record for record in done if record["settings"]["task"]["objective"] == task]
        speed = {
            name: 1e3 * statistics.median(record["backbone_seconds"] + record["head_seconds"] for record in seeds)
            for name, seeds in _grouped(group, row_name).items()
        }
        plots.append(scatter([(speed[n], v, n) for n, v in scores.items()], "ms for an image", labels[task]))
    for one, two in itertools.combinations(means, 2):
        both = [(means[one][name], means[two][name], name) for name in means[one] if name in means[two]]
        plots.append(scatter(both, labels[one], labels[two]))
    failed = [f"<li>{html.escape(row_name(r))}: {html.escape(r['error'])}</li>" for r in found if r["status"] != "done"]
    parts = [
        "<!doctype html><meta charset=utf-8><title>dense-ctx bench</title>", f"<style>{STYLE}</style>",
        _table(markdown(found)), *(["<h2>Failed</h2><ul>", *failed, "</ul>"] if failed else []), *plots,
    ]  # fmt: skip
    return "\n".join(parts) + "\n"


def scatter(points: list[Point], x: str, y: str) -> str:
    """Points (x, y, name) as SVG; a name shows where the pointer rests on its point, and beside it."""
    right, bottom = WIDTH - 110, HEIGHT - MARGIN
    xs, ys = [point[0] for point in points], [point[1] for point in points]
    marks = []
    for px, py, name in points:
        left, top, text = _place(px, xs, MARGIN, right), _place(py, ys, bottom, 16), html.escape(name)
        marks.append(f'<circle cx="{left:.1f}" cy="{top:.1f}" r="4"><title>{text}: {px:.4g}, {py:.4g}</title></circle>')
        marks.append(f'<text x="{left + 7:.1f}" y="{top + 3:.1f}" font-size="9">{text}</text>')
    ends = []
    for values, spots in (
        (xs, ((MARGIN, HEIGHT - 30, "start"), (right, HEIGHT - 30, "end"))),
        (ys, ((MARGIN - 8, bottom, "end"), (MARGIN - 8, 20, "end"))),
    ):
        for value, (at, down, anchor) in zip((min(values), max(values)), spots, strict=True):
            ends.append(f'<text x="{at}" y="{down}" text-anchor="{anchor}" font-size="10">{value:.3g}</text>')
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" fill="#235">'
        f'<path d="M{MARGIN} 10V{HEIGHT - 44}H{WIDTH - 100}" stroke="#999" fill="none"/>'
        f'<text x="{WIDTH / 2:.0f}" y="{HEIGHT - 10}" text-anchor="middle" font-size="12">{html.escape(x)}</text>'
        f'<text transform="translate(14 {HEIGHT / 2:.0f}) rotate(-90)" text-anchor="middle" font-size="12">'
        f"{html.escape(y)}</text>{''.join(ends)}{''.join(marks)}</svg>"
    )


def _place(value: float, values: list[float], first: float, last: float) -> float:
    low, high = min(values), max(values)
    return first + (last - first) * ((value - low) / (high - low) if high > low else 0.5)


def _grouped(records: Iterable[Record], key: Any) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return groups


def _table(text: str) -> str:
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    lines = ["<table><tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head) + "</tr>"]
    for row in rows:
        cells = (f"<b>{html.escape(c.strip('*'))}</b>" if c.startswith("**") else html.escape(c) for c in row)
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return "\n".join([*lines, "</table>"])
