"""Model selection: some training images are held out, and of a head's states the best one on them counts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from torch import Tensor

from dense_ctx.data import ImageSet, Subset
from dense_ctx.model import DenseModel
from dense_ctx.persistence.tensors import read_sealed, require_state, specs, write_sealed


def hold_out(images: ImageSet, share: float) -> tuple[Subset, Subset]:
    """(to train on, held out): the middle one of every 1 / share images is held out; none of fewer images."""
    count = len(images)
    period = math.inf if share == 0 else round(1 / share)
    held_out = [index for index in range(count) if share and index % period == period // 2]
    rest = sorted(set(range(count)) - set(held_out))
    return Subset(images, rest), Subset(images, held_out)


class Best:
    """The best decoder so far, in a file, so that a run that resumes still has it.

    Args:
        folder: of the run.
        metric: name of the score that is compared.
        lower: whether a lower score is better.
    """

    def __init__(self, folder: Path, metric: str, lower: bool) -> None:
        self.file, self.metric, self.lower = folder / "best.safetensors", metric, lower

    @property
    def record(self) -> dict[str, Any] | None:
        """{"step", "value"} of the best so far."""
        return self._read()[1] if self.file.exists() else None

    def _read(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, words = read_sealed(self.file)
        return tensors, json.loads(words["record"])

    def offer(self, model: DenseModel, step: int, value: float) -> None:
        """Write the decoder if it is the first or scores better; NaN is never better."""
        before = self.record
        if math.isnan(value):
            return
        if before is not None and not (value < before["value"] if self.lower else value > before["value"]):
            return
        record = json.dumps({"step": step, "value": value})
        write_sealed(self.file, model.decoder.state_dict(), {"record": record})

    def restore(self, model: DenseModel) -> dict[str, Any] | None:
        """Load the best decoder into the model; returns its record, None if there is none."""
        if not self.file.exists():
            return None
        tensors, record = self._read()
        require_state(tensors, specs(model.decoder.state_dict()), f"{self.file} is of another decoder")
        model.decoder.load_state_dict(tensors)
        return record
