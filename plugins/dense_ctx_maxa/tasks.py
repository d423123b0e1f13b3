"""The tasks: what data each takes, how its target is made, how many outputs it needs."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from dense_ctx.data import ImageSet, Kind
from dense_ctx.errors import ConfigError, InputError, UnknownNameError
from dense_ctx.images import nearest
from dense_ctx.interfaces import Size

from . import targets

Make = Callable[[Tensor, str], Tensor]


@dataclass(frozen=True)
class Task:
    """One task.

    kind: of the data set. outputs: D_out; 0: the number of classes; -1: as many as the decoder has (a latent).
    lr: of the paper, for Adam. metric: the headline among the scores. unit: of it. values: whether targets are floats
        [K, H, W] (else labels [H, W]).
    """

    name: str
    kind: Kind
    outputs: int
    lr: float
    metric: str
    unit: str = ""
    values: bool = True


TASKS = {
    task.name: task
    for task in (
        Task("boundaries", "instances", 1, 2e-3, "iou"),
        Task("distance", "instances", 1, 1e-3, "mse"),
        Task("instances", "instances", -1, 1e-3, "ari", values=False),
        Task("semantic", "segmentation", 0, 1e-3, "miou", values=False),
        Task("depth", "depth", 1, 2e-3, "rmse", "m"),
        Task("normals", "normals", 3, 1e-3, "mean", "degrees"),
    )
}


def find(name: str) -> Task:
    """The task of a name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in TASKS:
        near = difflib.get_close_matches(str(name), TASKS, 1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UnknownNameError(f"No task {name!r}.{hint} Tasks: {', '.join(TASKS)}")
    return TASKS[name]


def check_set(task: Task, images: ImageSet) -> None:
    """Refuse a data set whose targets are not the task's.

    Raises:
        ConfigError: another kind.
        InputError: no images, or classes without names.
    """
    if images.kind != task.kind:
        hint = {"instances": " (voc2012: instances=true; coco-instances; image-folder: kind=instances)"}
        raise ConfigError(
            f"maxa-{task.name} needs a data set of {task.kind}{hint.get(task.kind, '')}; this one's targets are "
            f"{images.kind}"
        )
    if not len(images):
        raise InputError("The data set holds no image")
    if task.name == "semantic" and not images.classes:
        raise InputError("The data set names no classes; the number of outputs would be unknown")


def outputs(task: Task, classes: int, dim: int) -> None:
    """Refuse a decoder with another number of channels than the task needs.

    Raises:
        ConfigError: says how many it needs.
    """
    needed = classes if task.outputs == 0 else task.outputs
    if needed > 0 and dim != needed:
        raise ConfigError(f"maxa-{task.name} needs a decoder with {needed} output channel(s); this one has dim={dim}")


def target(task: Task, annotation: Tensor, size: Size | None, classes: int, name: str) -> Tensor:
    """A sample's target at `size` (None: its own): float32 [K, H, W] with NaN, or int64 [H, W] with -1.

    Raises:
        InputError: an annotation that is not what the task takes; `name` says whose.
    """
    at = annotation if size is None else nearest(annotation, size)
    if task.kind == "instances":
        at = targets.check_instances(at, name)
        if task.name == "boundaries":
            return targets.boundaries(at)
        return targets.distances(at) if task.name == "distance" else at.long()
    if task.name == "semantic":
        return targets.check_labels(at, classes, name).long()
    return targets.check_depth(at, name) if task.name == "depth" else targets.check_values(at, 3, name)


def known(task: Task, made: Tensor) -> Tensor:
    """Pixels of a target that count, bool [H, W]; of instances those of the foreground."""
    if task.values:
        return made.isfinite().all(-3)
    return made > 0 if task.name == "instances" else made >= 0
