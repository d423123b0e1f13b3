"""MLflow: its local store, or the server that MLFLOW_TRACKING_URI names."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it would report its use
import mlflow

from .tracker import PROJECT, AccelerateTracker, Value, known_run, remember_run


class MLflow(AccelerateTracker):
    """A run of MLflow, in the store that MLFLOW_TRACKING_URI names; without it, MLflow's own default, a local one.

    In names of parameters and metrics, signs that MLflow refuses become "_": J&F-Mean is J_F-Mean.

    Args:
        experiment: its experiment; MLFLOW_EXPERIMENT_NAME has precedence; default dense-ctx.
        name: of the run; default the name of its folder.
    """

    name = "mlflow"

    def __init__(self, experiment: str | None = None, name: str | None = None) -> None:
        self.experiment, self.run_name = experiment or PROJECT, name

    def arguments(self, out: Path, step: int) -> tuple[list[Any], dict[str, Any]]:
        """Of Accelerate's class."""
        run = known_run(out, self.name)
        return [self.experiment], {"run_id": run, "run_name": self.run_name or out.resolve().name}

    def store(self, out: Path, config: Mapping[str, Value]) -> None:
        """Store the configuration; a value that the run has is never changed, which MLflow would refuse."""
        run = self.inner.tracker.info.run_id
        remember_run(out, self.name, run)
        logged = mlflow.get_run(run).data.params
        super().store(out, {key: value for key, value in _names(config).items() if key not in logged})

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Pass the numbers on."""
        super().log(_names(values), step)

    def close(self, failed: bool) -> None:
        """End the run, as one that failed if it did."""
        mlflow.end_run("FAILED" if failed else "FINISHED")


def _names(values: Mapping[str, Any]) -> dict[str, Any]:
    return {re.sub(r"[^\w\-. :/]", "_", name): value for name, value in values.items()}
