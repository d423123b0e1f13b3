"""Published tables as data, for comparison with results.

A paper is a part of kind "paper": register("paper", "lila", "package:path/lila.json").

    from dense_ctx_benchmarks import papers
    table = papers.table("lila:table1")
    print(table.render(extra_rows=[("my model", {"linear_jf": 61.2})]))

One JSON file for each paper:

    {"paper": "lila", "title": the paper's title, "source": arXiv id or reference,
     "unreadable": [{"table": "table4", "what": ...}],      what our copy of the text lost for good
     "tables": {"table1": {
        "title": what the table shows, in our words,
        "notes": [...],                                     optional: what was inferred, where the paper errs
        "protocol": {"linear_jf": "davis2017-linear-v2"},   for each column the protocol that measures it, a list of
                                                            them (one a stride of the backbone), or null
        "columns": {"linear_jf": {"metric": "J&F", "unit": "%", "higher_is_better": true}},
        "rows": [{"name": "DINOv2-S14 + LILA", "backbone": "dinov2-s14", "data": "YT-VOS",
                  "values": {"linear_jf": 68.6}}]}}}

A column of a benchmark's cells has "PRESET/TASK" in place of a protocol, or "PRESET/*" for what all its tasks share.
A column may have a "condition", which sets it apart from others of its protocol and metric ("support: 1/8 of the
training images"); a result belongs in a column when protocol, metric and condition agree. "higher_is_better" is null
for what is no score (sizes, counts). Units: "%", "pp" (percentage points), "deg", "m", "px", "cells", "M" (millions),
"" where there is none or the paper names none. A row's "backbone" is a short name of the library, null where none is
that network; "data" is what the row adds to its backbone or was trained on, null where the paper does not say; rows
may have a "group". A value is null where the paper prints none.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from numbers import Real
from types import MappingProxyType
from typing import Any

from dense_ctx.errors import ConfigError, InputError, UnknownNameError
from dense_ctx.plugins import registry

__all__ = ["Column", "Row", "Table", "names", "table"]

OURS = "(ours, dense_ctx)"


@dataclass(frozen=True)
class Column:
    """What one column holds; the fields are those of the file, described in the module's docstring.

    protocols: those that measure it, () where none does.
    """

    metric: str
    unit: str
    higher_is_better: bool | None
    protocols: tuple[str, ...]
    condition: str | None = None


@dataclass(frozen=True)
class Row:
    """One published row; `values` has an entry for every column, None where the paper prints no number."""

    name: str
    backbone: str | None
    data: str | None
    values: Mapping[str, float | None]
    group: str | None = None


@dataclass(frozen=True)
class Table:
    """One published table: `name` as asked for ("lila:table1"), `paper` and `source` for a citation."""

    name: str
    title: str
    paper: str
    source: str
    columns: Mapping[str, Column]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def render(self, extra_rows: Iterable[tuple[str, Mapping[str, float | None]]] = ()) -> str:
        """An aligned Markdown table: published rows first, then `extra_rows`, marked as ours.

        Numbers have the decimals of the most precise published one in their column. An arrow says which way is better.

        Args:
            extra_rows: (name, {column: value}); columns left out, and None, print as "-".

        Raises:
            InputError: a row that is no (name, mapping) pair, a column the table lacks, or a value that is no finite
                number.
        """
        head = ["method", "data", *(_head(name, column) for name, column in self.columns.items())]
        decimals = {name: max(map(_decimals, self._published(name)), default=1) for name in self.columns}
        lines = [[row.name, row.data or "-", *self._cells(row.values, decimals)] for row in self.rows]
        for extra in extra_rows:
            name, values = self._check(extra)
            lines.append([f"{name} {OURS}", "-", *self._cells(values, decimals)])
        return _markdown([[cell.replace("|", r"\|") for cell in line] for line in [head, *lines]])

    def _published(self, column: str) -> list[float]:
        return [value for row in self.rows if (value := row.values[column]) is not None]

    def _cells(self, values: Mapping[str, float | None], decimals: Mapping[str, int]) -> list[str]:
        cells = ((values.get(name), decimals[name]) for name in self.columns)
        return ["-" if value is None else f"{value:.{digits}f}" for value, digits in cells]

    def _check(self, extra: object) -> tuple[str, Mapping[str, float | None]]:
        match extra:
            case (str(name), Mapping() as values):
                pass
            case _:
                raise InputError(f"An extra row of {self.name} is (name, {{column: value}}); got {extra!r}")
        for column, value in values.items():
            if column not in self.columns:
                raise InputError(
                    f"Extra row {name!r}: {self.name} has no column {column!r}; it has {', '.join(self.columns)}"
                )
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
                raise InputError(
                    f"Extra row {name!r}, column {column!r}: expected a finite number, or None where there is none; "
                    f"got {value!r}"
                )
        return " ".join(name.split()), values


def names(paper: str | None = None) -> list[str]:
    """Names of all tables, as `table` takes them, in the papers' order; of one paper if it is given.

    Raises:
        UnknownNameError: there is no such paper.
    """
    papers = registry().names("paper") if paper is None else [paper]
    return [f"{one}:{name}" for one in papers for name in _file(one)["tables"]]


def table(name: str) -> Table:
    """The published table called `name`, "paper:table".

    Raises:
        UnknownNameError: there is no such paper, or the paper has no such table; lists those that exist.
        InputError: the name is no str.
        ConfigError: the paper's file is malformed.
    """
    if not isinstance(name, str):
        raise InputError(f"A table is asked for by name, such as 'lila:table1'; got {type(name).__name__}: {name!r}")
    paper, _, part = name.partition(":")
    tables = names(paper)
    if name not in tables:
        raise UnknownNameError(f"Unknown table {name!r}. {paper} has {', '.join(tables)}.")
    file = _file(paper)
    try:
        return _table(name, file, file["tables"][part])
    except (AttributeError, KeyError, TypeError) as error:
        raise ConfigError(f"The table {name} is malformed: {type(error).__name__}: {error}") from error


def _table(name: str, file: Mapping[str, Any], entry: Mapping[str, Any]) -> Table:
    columns = {
        key: Column(protocols=_names(entry["protocol"][key]), **column) for key, column in entry["columns"].items()
    }
    rows = tuple(Row(**{**row, "values": MappingProxyType(row["values"])}) for row in entry["rows"])
    for row in rows:
        if set(row.values) != set(columns):
            raise KeyError(f"the row {row.name!r} has {', '.join(row.values)}; the columns are {', '.join(columns)}")
    return Table(
        name=name,
        title=entry["title"],
        paper=file["title"],
        source=file["source"],
        columns=MappingProxyType(columns),
        rows=rows,
        notes=tuple(entry.get("notes", ())),
    )


def _names(protocol: str | list[str] | None) -> tuple[str, ...]:
    return tuple([protocol] if isinstance(protocol, str) else protocol or ())


@cache
def _file(paper: str) -> dict[str, Any]:
    try:
        content = json.loads(registry().file("paper", paper).read_text("utf-8"))
    except ValueError as error:
        raise ConfigError(f"The paper {paper!r} is not JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("tables"), dict):
        raise ConfigError(f'The paper {paper!r} is not {{"title": ..., "source": ..., "tables": {{...}}}}')
    return content


def _head(name: str, column: Column) -> str:
    arrow = {True: "↑", False: "↓", None: ""}[column.higher_is_better]
    return " ".join(part for part in (name, column.unit and f"[{column.unit}]", arrow) if part)


def _decimals(value: float) -> int:
    return len(repr(value).partition(".")[2])


def _markdown(lines: list[list[str]]) -> str:
    """The first two columns to the left, the others (numbers) to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]

    def row(cells: list[str]) -> str:
        pads = (
            cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join(pads) + " |"

    rule = "|" + "|".join("-" * (w + 2) if i < 2 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join([row(lines[0]), rule, *map(row, lines[1:])])
