"""Cells of `dense-ctx bench`, measured under a preset, as rows of the paper's table that the preset is of."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dense_ctx.errors import ConfigError, InputError
from dense_ctx.files import read_json
from dense_ctx.plugins import registry

from . import papers
from .whole import require_whole

# how the paper calls what a cell's record has
_SCORES = {"ARI": "ari", "cross-entropy": "ce", "IoU": "iou", "MSE": "mse", "RMSE": "rmse", "mIoU": "miou"}
_FACTS = {
    "learnable parameters": lambda record: record["learnt"] / 1e6,
    "parameters": lambda record: record["parameters"] / 1e6,
    "image size": lambda record: record["image_size"][0],
    "feature grid side": lambda record: record["grid"][0],
}


def is_bench(path: Path) -> bool:
    """Whether a folder is the --out of a benchmark."""
    return (path / "cells").is_dir()


def beside(folders: Sequence[Path], paper: str) -> str:
    """The published table and a row of ours for each backbone, means over seeds.

    Raises:
        InputError: a cell of no preset, of another file of that name than is shipped, of a part of its data set, or
            none that has a column here.
        ConfigError: a file that is no record of a cell.
    """
    table = papers.table(paper)
    values: dict[str, dict[str, list[float]]] = {}
    presets: set[str] = set()
    remarks: list[str] = []
    for record in (one for folder in folders for one in _records(folder)):
        preset = record["settings"].get("preset")
        if preset is None:
            raise InputError(
                "A cell was measured with settings of its own; only those of a preset, `dense-ctx bench PRESET`, stand "
                f"beside {paper}"
            )
        text = registry().text("preset", preset["name"])
        if hashlib.sha256(text.encode()).hexdigest() != preset["digest"]:
            raise InputError(f"A cell was measured under another {preset['name']} than the one that is shipped")
        presets.add(preset["name"])
        for name, column in table.columns.items():
            if not {f"{preset['name']}/{preset['column']}", f"{preset['name']}/*"} & set(column.protocols):
                continue
            value = _value(record, column)
            if value is not None:
                who = f"{preset['row']} under {preset['name']}/{preset['column']}"
                remark = require_whole(
                    who, {"name": record["settings"]["task"]["data"]["name"], **record.get("data", {})}
                )
                remarks += [remark] if remark and remark not in remarks else []
                values.setdefault(preset["row"], {}).setdefault(name, []).append(value)
    if not values:
        listing = sorted({one for column in table.columns.values() for one in column.protocols})
        raise InputError(
            f"{paper} has no column of {', '.join(sorted(presets))}; its own: {', '.join(listing) or 'none'}"
        )
    rows = [(row, {name: statistics.mean(some) for name, some in cells.items()}) for row, cells in values.items()]
    return "\n\n".join([table.render(extra_rows=rows), *remarks])


def _records(folder: Path) -> list[dict[str, Any]]:
    records = [read_json(path) for path in sorted((folder / "cells").glob("*.json"))]
    for record in records:
        if not isinstance(record, dict) or not {"settings", "status"} <= set(record):
            raise ConfigError(f"{folder} holds a file that is no record of `dense-ctx bench`")
    done = [record for record in records if record["status"] == "done"]
    if not done:
        raise InputError(f"No cell of {folder} is done")
    return done


def _value(record: Mapping[str, Any], column: papers.Column) -> float | None:
    fact = _FACTS.get(column.metric)
    if fact is not None:
        return float(fact(record))
    scores, key = record["scores"], _SCORES.get(column.metric, column.metric)
    value = scores.get(key, scores.get("miou") if key == "iou" else None)
    return None if value is None else value * (100 if column.unit == "%" else 1)
