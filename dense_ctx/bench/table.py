"""The records of a benchmark as a Markdown table: a row for each backbone and head, a column for each task."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

Record = Mapping[str, Any]


def markdown(records: Iterable[Record]) -> str:
    """Mean and standard deviation over seeds; the best of each column in bold; "failed" where no seed was done."""
    rows: dict[str, dict[str, list[Record]]] = {}
    tasks: list[str] = []
    for record in records:
        settings = record["settings"]
        task = settings["task"]["objective"]
        tasks += [] if task in tasks else [task]
        rows.setdefault(row_name(record), {}).setdefault(task, []).append(record)
    best = {task: _best([row.get(task, []) for row in rows.values()]) for task in tasks}
    arrows = {task: _head([r for row in rows.values() for r in row.get(task, [])]) for task in tasks}
    lines = ["| backbone + head | learnt | " + " | ".join(f"{task} {arrows[task]}".strip() for task in tasks) + " |"]
    lines.append("|---|---:|" + "---:|" * len(tasks))
    for name, columns in rows.items():
        counts = sorted({r["learnt"] for found in columns.values() for r in found if r["status"] == "done"})
        learnt = " to ".join(f"{n:,}" for n in dict.fromkeys((counts[0], counts[-1]))) if counts else "-"
        cells = [_cell(columns.get(task, []), best[task]) for task in tasks]
        lines.append(f"| {name} | {learnt} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def row_name(record: Record) -> str:
    """Backbone and head, with their arguments."""
    return f"{_spec(record['settings']['backbone'])} + {_spec(record['settings']['head'])}"


def _done(records: list[Record]) -> list[float]:
    return [record["value"] for record in records if record["status"] == "done"]


def _best(columns: list[list[Record]]) -> float | None:
    found = [(statistics.mean(_done(records)), records) for records in columns if _done(records)]
    if not found:
        return None
    done = next(record for record in found[0][1] if record["status"] == "done")
    return (min if done["lower_is_better"] else max)(mean for mean, _ in found)


def _head(records: list[Record]) -> str:
    done = [record for record in records if record["status"] == "done"]
    return f"{done[0]['metric']} {'↓' if done[0]['lower_is_better'] else '↑'}" if done else ""


def _cell(records: list[Record], best: float | None) -> str:
    values = _done(records)
    failed = len(records) - len(values)
    if not values:
        return "failed" if failed else "-"
    mean = statistics.mean(values)
    text = f"{mean:.4g}" + (f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else "")
    text = f"**{text}**" if mean == best else text
    return f"{text} ({failed} failed)" if failed else text


def _spec(part: Mapping[str, Any]) -> str:
    args = ", ".join(f"{key}={value}" for key, value in part["args"].items())
    return f"{part['name']}({args})" if args else str(part["name"])
