"""Task: data, target, loss and scores of a head. Registered under the kind "task"."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from dense_ctx.config import Output, Part, parse_part, typed
from dense_ctx.data import ImageSet, Kind
from dense_ctx.errors import ConfigError, InputError
from dense_ctx.images import nearest
from dense_ctx.interfaces import Metric, Size
from dense_ctx.plugins import registry


class Task(ABC):
    """A task: what a head learns to predict for every pixel.

    Targets are values, float32 [K, H, W] with NaN where unknown, or labels, int64 [H, W] with -1 where unknown.

    Attributes set by the subclass:
        kind: of the data sets it is for.
        channels: outputs K of the decoder; None: one for each class of the data set.
        values: whether targets are values; False: labels.
        numbered: whether labels are instances, 0 the background. Over the data set each instance then has a number of
            its own; the decoder's outputs, of any number of channels, are a latent of which a classifier, trained with
            the decoder and dropped afterwards, predicts that number.
        metric: the headline among the scores. unit: of it; "" for a share or a number without one.
        lower_is_better: whether a lower headline is better.
        loss_score: the score that is the loss on held-out images; "" if there is none.
        lr: learning rate of Adam.
        stored: type of values on disk.
        hint: how to open data sets of this kind, for an error message; "" if that is plain.
        name, args: as registered, and what it was created with; set by `create_task`.
    """

    kind: ClassVar[Kind]
    channels: int | None = 1
    values: ClassVar[bool] = True
    numbered: ClassVar[bool] = False
    metric: ClassVar[str]
    unit: ClassVar[str] = ""
    lower_is_better: ClassVar[bool] = False
    loss_score: ClassVar[str] = ""
    lr: ClassVar[float] = 1e-3
    stored: ClassVar[torch.dtype] = torch.float32
    hint: ClassVar[str] = ""
    name: str = ""
    args: Mapping[str, Any] = MappingProxyType({})

    @abstractmethod
    def target(self, annotation: Tensor, classes: Sequence[str], name: str) -> Tensor:
        """The target of one image.

        Args:
            annotation: as `dense_ctx.data.Sample.target` has it, at the size of the output.
            classes: of the data set.
            name: of the image, for errors.

        Raises:
            InputError: the annotation is not what this task takes.
        """

    @abstractmethod
    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Mean loss [] over the known pixels of a batch; 0 if there are none.

        Args:
            prediction: [B, K, H, W]; of a numbered task the classifier's logits [N, K] of some pixels.
            target: [B, K, H, W] or [B, H, W]; of a numbered task [N].
        """

    @abstractmethod
    def scores(self, classes: Sequence[str]) -> Metric:
        """A new accumulator of the scores; its `update` takes a prediction [K, H, W] and a target."""

    def output(self, classes: Sequence[str]) -> Output | None:
        """What the decoder's channels are, but for its sizes. Default None: nothing that is predicted by itself."""
        return None

    def known(self, target: Tensor) -> Tensor:
        """Pixels of targets [..., K, H, W] or [..., H, W] that are known: bool [..., H, W]."""
        return target.isfinite().all(-3) if self.values else target >= 0

    def mirrored(self, target: Tensor) -> Tensor:
        """The target of the image flipped left to right."""
        return target.flip(-1)


def create_task(task: str | Mapping[str, Any]) -> Task:
    """A registered task by NAME, NAME(key=value, ...) or {name: ..., args: {...}}.

    Raises:
        UnknownNameError: no such task. InputError: arguments that it does not take. ConfigError: none of the three.
    """
    part = typed(Part, task, "task") if isinstance(task, Mapping) else parse_part(task)
    created = cast(Task, registry().create("task", part.name, **part.args))
    created.name, created.args = part.name, part.args
    return created


def make_target(task: Task, annotation: Tensor, size: Size, classes: Sequence[str], name: str) -> Tensor:
    """A sample's target, made of its annotation at `size`; see `Task.target`."""
    target = task.target(nearest(annotation, size), classes, name)
    return target.float() if task.values else target.long()


def check_images(task: Task, images: ImageSet) -> None:
    """Refuse a data set that the task cannot learn from.

    Raises:
        ConfigError: its targets are of another kind.
        InputError: no images, or no classes where the decoder needs an output for each.
    """
    if images.kind != task.kind:
        hint = f" ({task.hint})" if task.hint else ""
        raise ConfigError(
            f"The task {task.name} needs a data set of {task.kind}{hint}; this one's targets are {images.kind}"
        )
    if not len(images):
        raise InputError("The data set holds no image")
    if task.channels is None and not images.classes:
        raise InputError("The data set names no classes; the number of outputs would be unknown")


def check_outputs(task: Task, classes: Sequence[str], dim: int) -> None:
    """Refuse a decoder with another number of channels than the task needs.

    Raises:
        ConfigError: says how many it needs.
    """
    channels = len(classes) if task.channels is None else task.channels
    if dim != channels and not task.numbered:
        raise ConfigError(
            f"The task {task.name} needs a decoder with {channels} output channel(s); this one has dim={dim}"
        )
