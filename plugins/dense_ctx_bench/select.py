"""Model selection: a part of the training images is held out, and the head that scores best on it is kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from dense_ctx.data.base import ImageSet, Sample
from dense_ctx.files import new_file, read_json, write_json, write_tensors
from dense_ctx.model import DenseModel


class Part(ImageSet):
    """Some images of a data set, by their indices."""

    def __init__(self, images: ImageSet, indices: Sequence[int]) -> None:
        self.images, self.indices = images, list(indices)
        self.kind, self.classes = images.kind, images.classes
        self.names = [images.names[index] for index in self.indices]

    def __getitem__(self, index: int) -> Sample:
        return self.images[self.indices[index]]


def hold_out(images: ImageSet, share: float) -> tuple[Part, Part]:
    """(to train on, held out): the middle one of every 1 / share images is held out; none of fewer images."""
    count = len(images)
    period = math.inf if share == 0 else round(1 / share)
    held = [index for index in range(count) if share and index % period == period // 2]
    chosen = set(held)
    return Part(images, [index for index in range(count) if index not in chosen]), Part(images, held)


class Best:
    """Keeps the best decoder under `folder`, so that a continued run still knows it.

    Args:
        folder: of the run.
        metric, lower: what is compared, and whether less is better.
    """

    def __init__(self, folder: Path, metric: str, lower: bool) -> None:
        self.folder, self.metric, self.lower = folder, metric, lower

    @property
    def record(self) -> dict[str, Any] | None:
        """{"step", "value"} of the best so far."""
        path = self.folder / "best.json"
        found: dict[str, Any] | None = read_json(path) if path.exists() else None
        return found

    def offer(self, model: DenseModel, step: int, value: float) -> None:
        """Keep the decoder if it is the first or better than what there is."""
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
        """Put the best decoder into the model; returns its record, None where there is none."""
        found = self.record
        if found is not None:
            model.decoder.load_state_dict(load_file(str(self.folder / "best.safetensors")), strict=True)
        return found
