"""TensorBoard: event files in the run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.utils.tensorboard  # noqa: F401  raises where the package is not installed

from .tracker import AccelerateTracker, Value


class TensorBoard(AccelerateTracker):
    """Event files in OUT/tensorboard; those of steps after the one where a run resumes are hidden."""

    name = "tensorboard"

    def arguments(self, out: Path, step: int) -> tuple[list[Any], dict[str, Any]]:
        """Of Accelerate's class."""
        return [self.name, str(out)], {"purge_step": step + 1}

    def store(self, out: Path, config: Mapping[str, Value]) -> None:
        """Store the configuration, once: TensorBoard would show each as a run of its own."""
        if not any((out / self.name).glob("*/hparams.yml")):
            super().store(out, config)
