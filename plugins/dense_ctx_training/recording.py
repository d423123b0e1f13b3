"""The open trackers of each run of this process."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

from dense_ctx.create import create_part
from dense_ctx.errors import DenseCtxError
from dense_ctx.plugins import blamed, plugin_failed
from dense_ctx.train import TrainConfig

from .tracker import Tracker, flat

_open: dict[str, dict[str, Tracker]] = {}  # by the run's folder, then by name


def start(config: TrainConfig, step: int) -> None:
    """Open the trackers that a configuration names.

    Raises:
        PluginError: one cannot be opened; those before it are closed.
    """
    trackers = _open[config.out] = {}
    with contextlib.ExitStack() as undo:
        undo.callback(end, config, step, failed=True)
        if config.log_with is None:  # TensorBoard, if it is installed and works
            with contextlib.suppress(DenseCtxError):
                trackers["tensorboard"] = _opened("tensorboard", {}, config, step)
        for part in config.log_with or ():
            trackers[part.name] = _opened(part.name, part.args, config, step)
        undo.pop_all()


def _opened(name: str, args: Mapping[str, object], config: TrainConfig, step: int) -> Tracker:
    with blamed("tracker", name):
        tracker = cast(Tracker, create_part("tracker", name, args))
        tracker.open(Path(config.out), step, flat(config.to_dict()))
    return tracker


def log(config: TrainConfig, values: Mapping[str, float], step: int) -> None:
    """Hand the finite ones of `values` to each open tracker."""
    finite = {name: value for name, value in values.items() if math.isfinite(value)}
    _each(config, step, lambda tracker: tracker.log(finite, step))


def end(config: TrainConfig, step: int, failed: bool) -> None:
    """Close the trackers."""
    _each(config, step, lambda tracker: tracker.close(failed))
    _open.pop(config.out, None)


def _each(config: TrainConfig, step: int, work: Callable[[Tracker], None]) -> None:
    """Do something with each tracker; one that fails is named in a warning, and left out from then on."""
    trackers = _open.get(config.out, {})
    for name, tracker in list(trackers.items()):
        try:
            work(tracker)
        except Exception as error:
            del trackers[name]
            what = f"The tracker {name} failed at step {step}; the run goes on without it, log.jsonl has every row"
            plugin_failed(what, f"tracker {name!r}", error)
