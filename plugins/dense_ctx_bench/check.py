"""Checks of a benchmark's parts before any cell runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dense_ctx.create import identity
from dense_ctx.data import layout
from dense_ctx.errors import ConfigError, DenseCtxError, FileError, InputError, PluginError
from dense_ctx.interfaces import ScoredObjective
from dense_ctx.plugins import registry

from .plan import Bench, BenchTask

OWN = {"size": "--size", "image_size": "--image-size"}  # attributes that a benchmark sets


def check_parts(bench: Bench) -> None:
    """Refuse parts whose code cannot be imported, arguments they do not have, and objectives that cannot score.

    Raises:
        ConfigError: a task's objective is no `ScoredObjective`, or lacks an attribute that the benchmark needs.
        InputError: a part does not take its arguments.
        PluginError: a part cannot be imported or built.
    """
    for part in bench.backbones:
        with _named("backbone", part.name):
            identity(part.name, part.args)
    for part in bench.heads:
        with _named("decoder", part.name):
            args = {key: value for key, value in part.args.items() if key != "lr"}
            for task in bench.tasks:
                registry().bind("decoder", part.name, **{"dims": (), "strides": (), "dim": 1, **args, **task.head})
    for task in bench.tasks:
        if not Path(task.data["root"]).exists():
            raise FileError(f"{task.objective}: there is no data at root={task.data['root']}")
        with _named("objective", task.objective):
            _check_task(create_objective(task), task, bench.cache)


def create_objective(task: BenchTask) -> ScoredObjective:
    """The task's objective.

    Raises:
        ConfigError: it cannot score. InputError: it does not take the task's arguments.
    """
    for name in OWN.keys() & task.args.keys():
        raise ConfigError(f"{task.objective}: {name} is the same for all tasks of a benchmark, {OWN[name]}")
    try:
        call = registry().bind("objective", task.objective, **task.args)
    except InputError as error:
        options = ", ".join(name for name, _ in layout(str(task.data["name"])).options) or "none"
        raise InputError(f"{error}; options of the data set {task.data['name']}: {options}") from None
    scores = not isinstance(call.func, type) or issubclass(call.func, ScoredObjective)
    objective = registry().create("objective", task.objective, **task.args) if scores else None
    if not isinstance(objective, ScoredObjective):
        raise ConfigError(
            f"{task.objective} cannot score: a benchmark's task is a ScoredObjective (dense_ctx.interfaces), such as "
            "maxa-depth"
        )
    return objective


def _check_task(objective: ScoredObjective, task: BenchTask, cache: bool) -> None:
    declared: tuple[tuple[str, object, type], ...] = (
        ("metric", objective.metric or None, str),
        ("unit", objective.unit, str),
        ("lower_is_better", objective.lower_is_better, bool),
    )
    for name, value, kind in declared:
        if not isinstance(value, kind):
            raise ConfigError(f"{task.objective}: its {name} is {value!r}, not a {kind.__name__}")
    if cache and not objective.reads_features:
        raise ConfigError(
            f"{task.objective} cannot train on features from disk (its reads_features is False): give --no-cache "
            "(cache=False), which runs the backbone in every step"
        )


@contextmanager
def _named(kind: str, name: str) -> Iterator[None]:
    """Errors other than DenseCtxError name the part."""
    try:
        yield
    except DenseCtxError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(f"{kind} {name!r} cannot be used: {type(error).__name__}: {error}") from error
