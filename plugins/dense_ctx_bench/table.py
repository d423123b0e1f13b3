"""The records of a benchmark as a Markdown table: a row for each backbone and head, a column for each task."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from .labels import Names

Record = Mapping[str, Any]


def markdown(records: Iterable[Record]) -> str:
    """Mean and standard deviation over seeds; the best of each column in bold; "failed" where no seed was done."""
    every = list(records)
    names = Names.of(every)
    rows: dict[tuple[str, str], dict[str, list[Record]]] = {}
    for record in every:
        backbone, head, task = names(record)
        rows.setdefault((backbone, head), {}).setdefault(task, []).append(record)
    tasks = list(dict.fromkeys(names.tasks.values()))
    best = {task: _best([row.get(task, []) for row in rows.values()]) for task in tasks}
    columns_of = {task: [r for row in rows.values() for r in row.get(task, [])] for task in tasks}
    heads = [f"{task}: {score_name(some)}" for task, some in columns_of.items()]
    lines = [f"| backbone | head | learnt | {' | '.join(heads)} |", "|---|---|---:|" + "---:|" * len(tasks)]
    for (backbone, head), columns in rows.items():
        counts = sorted({r["learnt"] for part in columns.values() for r in part if r["status"] == "done"})
        parameters = " to ".join(f"{n:,}" for n in dict.fromkeys((counts[0], counts[-1]))) if counts else "-"
        cells = [_cell(columns.get(task, []), best[task]) for task in tasks]
        lines.append(f"| {backbone} | {head} | {parameters} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n" + "".join(f"\nAll {label}\n" for label in names.shared)


def values(records: Iterable[Record]) -> list[float]:
    """Of the records that are done."""
    return [record["value"] for record in records if record["status"] == "done"]


def _best(columns: list[list[Record]]) -> float | None:
    means = [(statistics.mean(values(records)), records) for records in columns if values(records)]
    if not means:
        return None
    done = next(record for record in means[0][1] if record["status"] == "done")
    return (min if done["lower_is_better"] else max)(mean for mean, _ in means)


def score_name(records: Iterable[Record]) -> str:
    """What the values of a task's records are: the metric, its unit, and which way is better; "failed" if none is."""
    done = next((record for record in records if record["status"] == "done"), None)
    if done is None:
        return "failed"
    unit = f" ({done['unit']})" if done.get("unit") else ""
    return f"{done['metric']}{unit} {'↓' if done['lower_is_better'] else '↑'}"


def _cell(records: list[Record], best: float | None) -> str:
    done = values(records)
    failed = len(records) - len(done)
    if not done:
        return "failed" if failed else "-"
    mean = statistics.mean(done)
    text = f"{mean:.4g}" + (f" ± {statistics.stdev(done):.2g}" if len(done) > 1 else "")
    text = f"**{text}**" if mean == best else text
    return f"{text} ({failed} failed)" if failed else text
