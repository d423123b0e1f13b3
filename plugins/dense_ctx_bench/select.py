"""Model selection: some training images are held out, and of a head's states the best one on them counts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from dense_ctx.data import ImageSet, Subset
from dense_ctx.files import new_file, read_json, read_tensors, write_json, write_tensors
from dense_ctx.model import DenseModel


def hold_out(images: ImageSet, share: float) -> tuple[Subset, Subset]:
    """(to train on, held out): the middle one of every 1 / share images is held out; none of fewer images."""
    count = len(images)
    period = math.inf if share == 0 else round(1 / share)
    held_out = [index for index in range(count) if share and index % period == period // 2]
    rest = sorted(set(range(count)) - set(held_out))
    return Subset(images, rest), Subset(images, held_out)


class Best:
    """The best decoder so far, in files, so that a run that resumes still has it.

    Args:
        folder: of the run.
        metric: name of the score that is compared.
        lower: whether a lower score is better.
    """

    def __init__(self, folder: Path, metric: str, lower: bool) -> None:
        self.folder, self.metric, self.lower = folder, metric, lower

    @property
    def record(self) -> dict[str, Any] | None:
        """{"step", "value"} of the best so far."""
        path = self.folder / "best.json"
        record: dict[str, Any] | None = read_json(path) if path.exists() else None
        return record

    def offer(self, model: DenseModel, step: int, value: float) -> None:
        """Write the decoder if it is the first or scores better; NaN is never better."""
        before = self.record
        if math.isnan(value):
            return
        if before is not None and not (value < before["value"] if self.lower else value > before["value"]):
            return
        state = {key: tensor.detach().cpu().contiguous() for key, tensor in model.decoder.state_dict().items()}
        with new_file(self.folder / "best.safetensors") as partial:
            write_tensors(partial, state)
        write_json(self.folder / "best.json", {"step": step, "value": value})

    def restore(self, model: DenseModel) -> dict[str, Any] | None:
        """Load the best decoder into the model; returns its record, None if there is none."""
        record = self.record
        if record is not None:
            model.decoder.load_state_dict(read_tensors(self.folder / "best.safetensors"), strict=True)
        return record
