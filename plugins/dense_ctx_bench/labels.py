"""Short labels of a benchmark's backbones, heads and tasks: arguments that all share are stated once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dense_ctx.config import Part

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Names:
    """Call it with a record for (backbone, head, task). shared: what was left out, "heads: layers=[-2, -1]"."""

    backbones: Mapping[str, str] = field(default_factory=dict)
    heads: Mapping[str, str] = field(default_factory=dict)
    tasks: Mapping[str, str] = field(default_factory=dict)
    shared: tuple[str, ...] = ()

    @classmethod
    def of(cls, records: Iterable[Record]) -> Names:
        """The names that tell these records apart."""
        settings = [record["settings"] for record in records]
        backbones, one = _short([each["backbone"] for each in settings])
        heads, two = _short([each["head"] for each in settings])
        tasks = _tasks([each["task"] for each in settings])
        shared = tuple(f"{kind}: {label}" for kind, label in (("backbones", one), ("heads", two)) if label)
        return cls(backbones, heads, tasks, shared)

    def __call__(self, record: Record) -> tuple[str, str, str]:
        """Backbone, head and task of a record."""
        settings = record["settings"]
        parts = ((self.backbones, "backbone"), (self.heads, "head"), (self.tasks, "task"))
        backbone, head, task = (names[_key(settings[kind])] for names, kind in parts)
        return backbone, head, task


def _short(parts: list[Mapping[str, Any]]) -> tuple[dict[str, str], str]:
    distinct = {_key(part): part for part in parts}
    common: dict[str, Any] = {}
    if len(distinct) > 1:
        first, *others = distinct.values()
        common = {k: v for k, v in first["args"].items() if all(other["args"].get(k, ...) == v for other in others)}
    names = {
        key: str(Part(part["name"], {k: v for k, v in part["args"].items() if k not in common}))
        for key, part in distinct.items()
    }
    return names, _pairs(common)


def _tasks(parts: list[Mapping[str, Any]]) -> dict[str, str]:
    """The objective and its arguments; of several alike, what tells them apart: the data set's name, if that does."""
    distinct = {_key(part): part for part in parts}
    names = {}
    for objective in dict.fromkeys(_objective(part) for part in distinct.values()):
        alike = {key: _flat(part) for key, part in distinct.items() if _objective(part) == objective}
        keys = list(dict.fromkeys(k for values in alike.values() for k in values))
        choices: tuple[list[str], ...] = ([], ["name"], [k for k in keys if k != "root"], keys)
        telling = next(
            c for c in choices if len({_key({k: v.get(k) for k in c}) for v in alike.values()}) == len(alike)
        )
        for key, values in alike.items():
            common = {k: v for k, v in values.items() if all(other.get(k, ...) == v for other in alike.values())}
            own = {k: v for k, v in values.items() if k in telling and v is not None and k not in common}
            inner = (objective[1], values["name"] if telling == ["name"] else _pairs(own))
            brackets = ", ".join(label for label in inner if label)
            names[key] = f"{objective[0]}({brackets})" if brackets else objective[0]
    return names


def _objective(task: Mapping[str, Any]) -> tuple[str, str]:
    """Its name and arguments."""
    return task["objective"], _pairs(task.get("args", {}))


def _flat(task: Mapping[str, Any]) -> dict[str, Any]:
    return {**task.get("data", {}), **{key: task.get(key) for key in ("train", "val", "steps", "lr")}}


def _pairs(args: Mapping[str, Any]) -> str:
    """As the command line takes them."""
    return str(Part("x", args))[2:-1] if args else ""


def _key(part: Mapping[str, Any]) -> str:
    return json.dumps(part, sort_keys=True)
