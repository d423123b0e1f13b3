"""Score a model's decoder on a task."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader

from dense_ctx.model import DenseModel

from . import tasks
from .dataset import TaskData, open_images
from .objective import MaxaObjective
from .scoring import Score


@torch.no_grad()
def score(
    model: DenseModel,
    objective: MaxaObjective,
    data: Any,
    *,
    cache: str | None = None,
    targets: str | None = None,
    batch_size: int = 8,
    least: int = 1,
    seed: int = 0,
) -> dict[str, float]:
    """The task's metrics on the images that `data` names, at the objective's sizes; "images" says how many counted.

    Args:
        cache, targets: folders for the backbone's maps and the targets of these images; not the training images'.
        least, seed: see `Score`.

    Raises:
        ConfigError: the decoder or the data is not the task's.
        InputError: nothing could be scored.
    """
    task = objective.task
    images = open_images(data, task)
    tasks.outputs(task, len(images.classes), model.dim)
    samples = TaskData(task, images, objective.image_size, objective.size, folder=targets)
    reader = None
    if cache is not None:
        reader = samples.cache = objective.reader(model, samples, cache)
    found = Score(task, len(images.classes), least, seed)
    was = model.training
    model.eval()
    try:
        for batch in DataLoader(samples, batch_size=batch_size):  # type: ignore[var-annotated]
            predicted = objective.predict(model, batch, reader)
            # instances are numbered from 0 over the data set, the rest is -1; scores want the background as 0
            targets = batch["target"] + 1 if task.name == "instances" else batch["target"]
            for row in range(len(predicted)):
                found.add(predicted[row], targets[row])
    finally:
        model.train(was)
    return {**found.scores(), "images": float(found.images)}
