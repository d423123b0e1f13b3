"""Plugin: the command `dense-ctx train`, and trackers, which record a training beside its log.jsonl."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dense_ctx.hookspecs import DefineKind, Register, hookimpl

if TYPE_CHECKING:
    from dense_ctx.train import TrainConfig

TRACKERS = {"aim": "Aim", "mlflow": "MLflow", "tensorboard": "TensorBoard", "wandb": "WandB"}


@hookimpl
def define_kinds(define: DefineKind) -> None:
    """Define the kind `tracker`."""
    define("tracker", "dense_ctx_training.tracker:Tracker")


@hookimpl
def register_parts(register: Register) -> None:
    """Register the command and the trackers; each has an extra of its name."""
    register("command", "train", "dense_ctx_training.command:Train")
    for name, target in TRACKERS.items():
        register("tracker", name, f"dense_ctx_training.{name}_tracker:{target}", extra=name)


@hookimpl
def training_start(config: TrainConfig, step: int) -> None:
    """Open the trackers of `config.log_with`."""
    from . import recording

    recording.start(config, step)


@hookimpl
def training_step(config: TrainConfig, step: int, values: Mapping[str, float]) -> None:
    """Record the rows of log.jsonl."""
    from . import recording

    if step % config.log == 0 or step == config.steps:
        recording.log(config, values, step)


@hookimpl
def training_evaluation(config: TrainConfig, step: int, scores: Mapping[str, float]) -> None:
    """Record the scores."""
    from . import recording

    recording.log(config, {f"validation/{name}": value for name, value in scores.items()}, step)


@hookimpl
def training_end(config: TrainConfig, step: int, folder: Path | None) -> None:
    """Close the trackers."""
    from . import recording

    recording.end(config, step, failed=folder is None)
