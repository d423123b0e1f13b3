"""Benchmarks by name: a preset of `dense-ctx bench` names backbones, heads, tasks and all settings."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from dense_ctx.config import Part, load_yaml, parse_part, typed
from dense_ctx.errors import ConfigError, InputError
from dense_ctx.plugins import registry
from dense_ctx.train.config import Optimizer

from .plan import Bench, BenchTask, Precision, PresetNames


@dataclass(frozen=True)
class BenchPreset:
    """A preset's file; the fields are those of `Bench`.

    verb: "bench". backbones: {row of a table: NAME or NAME(key=value, ...)}. heads: as backbones, without rows.
    tasks: {column: a `BenchTask`}, whose data has no root yet.
    """

    verb: str
    backbones: Mapping[str, str]
    heads: tuple[str, ...]
    tasks: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...]
    size: tuple[int, int]
    image_size: tuple[int, int] | None
    steps: int
    batch_size: int
    held_out: float
    select: Literal["score", "loss"]
    schedule: Literal["constant", "cosine"]
    optimizer: Optimizer
    clip_norm: float | None
    mixed_precision: Precision
    cache: bool


def bench_of(
    name: str,
    roots: Mapping[str, str],
    out: Path,
    backbones: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> Bench:
    """The benchmark that a preset describes.

    Args:
        name: a registered preset, or a YAML file.
        roots: folder of each data set.
        backbones: rows of the preset, or other backbones; None: all rows. tasks: columns; None: all.
        seeds: None: its own.

    Raises:
        ConfigError: the file is no preset of a benchmark. UnknownNameError, FileError: there is none.
        InputError: a data set without a root, a root of a data set that no task has, a task it does not have.
    """
    text = registry().text("preset", name)
    data = load_yaml(text, name)
    if not isinstance(data, Mapping) or data.get("verb") != "bench":
        raise ConfigError(f"{name} is no preset of a benchmark (verb: bench); `dense-ctx train --list` lists presets")
    preset = typed(BenchPreset, data, name)
    strange = sorted(set(tasks or ()) - set(preset.tasks))
    if strange:
        raise InputError(f"{name} has no task {', '.join(strange)}; it has {', '.join(preset.tasks)}")
    choice = {key: typed(BenchTask, preset.tasks[key], f"{name}: {key}") for key in tasks or preset.tasks}
    needed = {str(task.data["name"]) for task in choice.values()}
    if set(roots) != needed:
        raise InputError(
            f"{name} needs the folders of {', '.join(sorted(needed))}: --data "
            + " ".join(f"{one}=PATH" for one in sorted(needed))
            + (f"; given: {', '.join(roots)}" if roots else "")
        )
    rooted = {
        key: replace(task, data={**task.data, "root": roots[str(task.data["name"])]}) for key, task in choice.items()
    }
    parts = [parse_part(preset.backbones.get(one, one)) for one in backbones or preset.backbones]
    rows = {str(parse_part(written)): row for row, written in preset.backbones.items()}
    names = PresetNames(name, hashlib.sha256(text.encode()).hexdigest(), rows, rooted)
    heads: tuple[Part, ...] = tuple(map(parse_part, preset.heads))
    return Bench(
        out, tuple(parts), heads, tuple(rooted.values()), tuple(seeds or preset.seeds), preset.size, preset.image_size,
        preset.steps, preset.batch_size, preset.held_out, preset.cache, preset.schedule, preset.select,
        preset.optimizer, preset.clip_norm, preset.mixed_precision, names,
    )  # fmt: skip
