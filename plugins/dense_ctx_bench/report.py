"""The records of a benchmark as one HTML page: the table, speed against score, and task against task (inline SVG)."""

from __future__ import annotations

import html
import itertools
import re
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from .labels import Names
from .plot import Point, legend, scatter
from .table import markdown, score_name, values

Record = Mapping[str, Any]

STYLE = (
    "body{font:15px/1.5 sans-serif;margin:2em;color:#2b2f33}table{border-collapse:collapse;margin:1em 0}"
    "td,th{padding:.25em .9em;text-align:right;border-bottom:1px solid #e4e6e8}th{border-bottom:2px solid #8a9096}"
    "td:nth-child(-n+2),th:nth-child(-n+2){text-align:left}.plots{display:flex;flex-wrap:wrap;gap:1em}.quiet{color:#5f6670}"
)


def page(records: Iterable[Record]) -> str:
    """A page that needs no other file. Cells that failed are in the table and in no plot."""
    every = list(records)
    names = Names.of(every)
    pictures = plots(every)
    failed = [
        f"<li>{html.escape(' + '.join(names(r)[:2]))}, {html.escape(names(r)[2])}, seed {r['settings']['seed']}: "
        f"{html.escape(r['error'])}</li>"
        for r in every if r["status"] != "done"
    ]  # fmt: skip
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>dense-ctx bench</title>',
        f"<style>{STYLE}</style><h1>Backbones and heads compared</h1>", _table(markdown(every)),
        f'<p class="quiet">{html.escape(_settings(every))}</p>',
        *(["<h2>Failed</h2><ul>", *failed, "</ul>"] if failed else []),
        *([f"<h2>Plots</h2><div>{pictures.pop('legend')}</div>", '<div class="plots">', *pictures.values(), "</div>"]
          if pictures else []),
    ]  # fmt: skip
    return "\n".join(parts) + "\n"


def plots(records: Iterable[Record]) -> dict[str, str]:
    """SVG by a name fit for a file: "legend", "speed-TASK" and "TASK-TASK"; nothing where no cell is done."""
    done = [record for record in records if record["status"] == "done"]
    if not done:
        return {}
    names = Names.of(done)
    groups: dict[str, dict[tuple[str, str], list[Record]]] = {}
    for record in done:
        backbone, head, task = names(record)
        groups.setdefault(task, {}).setdefault((backbone, head), []).append(record)
    axes = {task: f"{task}: {score_name(r for some in rows.values() for r in some)}" for task, rows in groups.items()}
    backbones, heads = (list(dict.fromkeys(each.values())) for each in (names.backbones, names.heads))
    pictures = {"legend": legend(backbones, heads)}
    for task, rows in groups.items():
        points = [Point(_milliseconds(some, done), _mean(some), *row, dy=_std(some)) for row, some in rows.items()]
        pictures[f"speed-{_file(task)}"] = scatter(
            points, "backbone and head, ms for an image", axes[task], backbones, heads
        )
    for one, two in itertools.combinations(groups, 2):
        both = [(row, groups[one][row], groups[two][row]) for row in groups[one] if row in groups[two]]
        points = [Point(_mean(x), _mean(y), *row, dx=_std(x), dy=_std(y)) for row, x, y in both]
        if points:
            pictures[f"{_file(one)}-{_file(two)}"] = scatter(points, axes[one], axes[two], backbones, heads)
    return pictures


def _mean(records: list[Record]) -> float:
    return statistics.mean(values(records))


def _std(records: list[Record]) -> float:
    return statistics.stdev(values(records)) if len(records) > 1 else 0.0


def _milliseconds(records: list[Record], every: list[Record]) -> float:
    """For one image: the least of these cells' heads and of all cells' passes of the same network, whatever its weights
    and the task, since other programs only add to it."""
    alike = (record for record in every if _network(record) == _network(records[0]))
    backbone = min(float(record["backbone_seconds"]) for record in alike)
    return 1e3 * (backbone + min(float(record["head_seconds"]) for record in records))


def _network(record: Record) -> tuple[Any, ...]:
    """What decides how long a backbone takes."""
    part = record["settings"]["backbone"]
    return part["name"], {k: v for k, v in part["args"].items() if k != "weights"}, record.get("image_size")


def _file(task: str) -> str:
    return re.sub(r"[^A-Za-z0-9.=-]+", "_", task).strip("_")


def _settings(records: list[Record]) -> str:
    """The conditions of the results: sizes, steps, seeds, machine."""
    first = records[0]["settings"]
    steps = sorted({record["settings"]["steps"] for record in records})
    seeds = sorted({record["settings"]["seed"] for record in records})
    facts = [
        f"{len(seeds)} seed{'s' * (len(seeds) > 1)}", f"outputs {first['size'][0]} x {first['size'][1]}",
        f"{' or '.join(map(str, steps))} steps of {first['batch_size']} images",
        *(["cosine schedule"] if first.get("schedule") == "cosine" else []),
        f"{first['held_out']:.0%} of the training images held out",
        *(["± is the standard deviation over seeds"] if len(seeds) > 1 else []),
    ]  # fmt: skip
    done = next((record for record in records if record["status"] == "done"), None)
    if done is not None:
        environment = done.get("environment", {})
        facts += [str(environment[key]) for key in ("machine", "device") if environment.get(key)]
        facts += [
            f"{name} {number}"
            for name, number in environment.get("versions", {}).items()
            if name in ("dense-ctx", "torch")
        ]
    return "; ".join(facts)


def _table(text: str) -> str:
    head, _, *rows = [line for line in text.splitlines() if line.startswith("|")]
    notes = [line for line in text.splitlines() if line and not line.startswith("|")]
    lines = [f"<table><tr>{''.join(f'<th>{html.escape(cell)}</th>' for cell in _split(head))}</tr>"]
    for row in rows:
        cells = (
            f"<b>{html.escape(c.replace('*', ''))}</b>" if c.startswith("**") else html.escape(c) for c in _split(row)
        )
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return "\n".join([*lines, "</table>", *(f'<p class="quiet">{html.escape(note)}</p>' for note in notes)])


def _split(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]
